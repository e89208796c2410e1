"""The playground in a real browser, over the real service with the demonstration model."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.browser.conftest import EXAMPLES, PROMPT, Playground
from tests.clients.conftest import API_KEY

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

    from tests.clients.browser.conftest import Opening
    from tests.integration.stack import RunningStack

OVERLOADED = {
    "title": "The service is overloaded",
    "status": 429,
    "code": "overloaded",
    "detail": "too many images are waiting",
    "retryable": True,
    "request_id": "4f1c8a52d0e34b7b",
}
TRANSFER = """(items) => {
  const transfer = new DataTransfer();
  for (const [name, text] of items.files ?? []) {
    const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
  }
  for (const [type, text] of Object.entries(items.texts ?? {})) transfer.setData(type, text);
  return transfer;
}"""


def _transfer(page: Page, *names: str, **texts: str) -> Any:
    """Make in the page what a drag or the clipboard would bring."""
    files = [(name, base64.b64encode((EXAMPLES / name).read_bytes()).decode()) for name in names]
    texts = {f"text/{kind.replace('_', '-')}": text for kind, text in texts.items()}
    return page.evaluate_handle(TRANSFER, {"files": files, "texts": texts})


def _drop(page: Page, *names: str, **texts: str) -> None:
    transfer = _transfer(page, *names, **texts)
    page.dispatch_event("#gallery", "dragover", {"dataTransfer": transfer})
    assert page.locator("body.dropping").count() == 1
    page.dispatch_event("#gallery", "drop", {"dataTransfer": transfer})
    assert page.locator("body.dropping").count() == 0


def test_a_ranking(playground: Playground, service: RunningStack) -> None:
    """The gallery has the order, the ranks and the numbers of `/score-batch`.

    It says which model gave them, and that its weights are a demonstration's.
    """
    names = ["1-03.jpg", "1-09.jpg", "1-10.jpg"]
    playground.add(*names)
    playground.rank()
    files = [("images", (name, (EXAMPLES / name).read_bytes())) for name in names]
    with service.client() as client:
        headers = {"X-API-Key": API_KEY}
        answer = client.post("/v1/score-batch", data={"prompt": PROMPT}, files=files, headers=headers).json()
    results = answer["results"]
    assert playground.names() == [names[result["index"]] for result in results] == names[1:] + names[:1]
    assert playground.texts(".card .number") == ["1", "2", "3"]
    shown = [playground.texts(f".card .{name} dd") for name in ("raw", "normalized", "percentile")]
    assert shown == [
        [f"{result['raw_score']:.3f}".replace("-", "\u2212") for result in results],
        [f"{result['normalized_score']:.3f}" for result in results],
        [f"{result['percentile']:.1f}" for result in results],
    ]
    bars = playground.page.locator(".bar").evaluate_all(
        "bars => bars.map(bar => bar.firstElementChild.offsetWidth / bar.offsetWidth)"
    )
    assert bars == pytest.approx([result["normalized_score"] for result in results], abs=0.02)
    assert playground.page.locator(".card[data-best] .name").inner_text() == "1-09.jpg"
    model = answer["model"]
    assert playground.page.inner_text("#model") == f"{model['name']} · version {model['version']} · cpu"
    assert playground.page.inner_text("#made-by").startswith(
        f"{model['name']}, version {model['version']} · weights {model['weights_sha256'][:12]} · "
    )
    assert "Demonstration weights" in playground.page.inner_text("#demonstration")


def test_other_weights_are_no_demonstration(opening: Opening) -> None:
    """With ImageReward's own name in `/info`, nothing is said of a demonstration."""

    def rename(route: Route) -> None:
        answer = route.fetch()
        content = answer.json()
        content["model"]["name"] = "ImageReward-v1.0"
        route.fulfill(response=answer, json=content)

    with opening() as playground:
        playground.page.route("**/info", rename)
        playground.page.reload()
        playground.page.wait_for_selector("#model:has-text('ImageReward-v1.0')")
        assert playground.page.locator("#demonstration").is_hidden()


def test_how_to_read_a_score(playground: Playground) -> None:
    """What a score means is said in the service's own words, and no other."""
    playground.page.click("summary")
    assert playground.texts("#scale dd") == [
        "reward, about -2 to +2; mean 0 and standard deviation 1 on the model's own test set",
        "sigmoid(raw_score), 0 to 1",
        "100 * Phi(raw_score), Phi the standard normal distribution",
    ]


def test_by_keyboard_alone(playground: Playground) -> None:
    """Prompt, pictures, ranking and removing need no mouse; the focus is never lost.

    After a ranking it stands at its heading, and the best is told to screen readers.
    """
    page = playground.page
    playground.add("1-03.jpg", "1-09.jpg")
    page.focus("#prompt")
    page.keyboard.type(PROMPT)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".card[data-state=ranked]")
    assert playground.status() == "2 pictures ranked. Best: 1-09.jpg, 2.007."
    assert page.get_attribute("#status", "role") == "status"
    assert page.evaluate("document.activeElement.id") == "gallery-title"
    seen = []
    for _ in range(3):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.id"))
    assert seen == ["clear", "Remove 1-09.jpg", "Remove 1-03.jpg"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.ariaLabel") == "Remove 1-03.jpg"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "files"
    assert page.locator("#empty").is_visible()


def test_dropped(playground: Playground) -> None:
    """Files that are dropped anywhere on the page become candidates, and so do addresses."""
    _drop(playground.page, "1-09.jpg", "1-03.jpg")
    assert playground.names() == ["1-09.jpg", "1-03.jpg"]
    _drop(playground.page, uri_list="# a comment\r\nhttp://169.254.169.254/c.png\r\n")
    assert playground.names() == ["1-09.jpg", "1-03.jpg", "c.png"]
    playground.rank()
    assert playground.texts(".card .number") == ["1", "2"]


def test_pasted(opening: Opening) -> None:
    """A picture of the real clipboard becomes a candidate, and so do addresses.

    A text that is pasted into the prompt stays there.
    """
    with opening(permissions=["clipboard-read", "clipboard-write"]) as playground:
        page = playground.page
        page.evaluate(
            """async () => {
              const canvas = new OffscreenCanvas(64, 64);
              canvas.getContext("2d").fillRect(8, 8, 40, 40);
              const blob = await canvas.convertToBlob();
              await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
            }"""
        )
        page.keyboard.press("Control+V")
        page.wait_for_selector(".card")
        page.evaluate("navigator.clipboard.writeText('https://a.example/x/one.png https://b.example')")
        page.keyboard.press("Control+V")
        page.wait_for_selector(".card:nth-child(3)")
        assert playground.names() == ["image.png", "one.png", "b.example"]
        page.focus("#prompt")
        page.keyboard.press("Control+V")
        assert page.input_value("#prompt") == "https://a.example/x/one.png https://b.example"
        page.click("h1")
        page.evaluate("navigator.clipboard.writeText('no address at all')")
        page.keyboard.press("Control+V")
        assert len(playground.names()) == 3


def test_by_address(playground: Playground) -> None:
    """A data: URI is shown and scored; another address is the service's to fetch, and not shown.

    What is no address is said to be none, at its field.
    """
    picture = base64.b64encode((EXAMPLES / "1-09.jpg").read_bytes()).decode()
    playground.add_address(f"data:image/jpeg;base64,{picture}")
    playground.add_address("http://169.254.169.254/a%20picture.png")
    assert playground.names() == ["picture of a data: URI", "a picture.png"]
    assert playground.texts(".stand-in") == ["", "169.254.169.254"][1:]
    playground.add_address("javascript:alert(1)")
    assert playground.status() == "An address begins with http://, https:// or data:image/."
    assert playground.page.evaluate("document.activeElement.id") == "address"
    playground.rank()
    assert playground.texts(".card .raw dd") == ["2.007"]


def test_failures_stand_in_their_places(playground: Playground) -> None:
    """A candidate that fails keeps its card, which says why in words and by its code."""
    playground.add("1-03.jpg", "examples.json")
    playground.add_address("http://169.254.169.254/")
    playground.rank()
    assert playground.names() == ["1-03.jpg", "examples.json", "169.254.169.254"]
    assert playground.texts(".failure code") == ["image_undecodable", "image_url_forbidden"]
    assert playground.texts(".failure strong")[0] == "Not a picture that can be read."
    assert playground.status() == "1 picture ranked. 2 without a score."
    assert playground.page.locator("#alert").inner_text() == ""


def test_all_fail(playground: Playground) -> None:
    """Where nothing could be scored, an alert says so, and each card why."""
    playground.add("examples.json")
    playground.rank()
    assert playground.texts("#alert strong") == ["The image cannot be decoded."]
    assert playground.texts("#alert code")[0].startswith("image_undecodable · request ")
    assert playground.texts(".failure code") == ["image_undecodable"]


def test_at_most_ten(playground: Playground) -> None:
    """Of more pictures than the service takes, the first ones are taken, and the rest is told."""
    playground.add(*[f"1-{number:02}.jpg" for number in range(1, 10)])
    assert playground.page.inner_text("#count") == "9 of 10"
    playground.add("2-01.jpg", "2-02.jpg", "2-03.jpg")
    assert playground.names()[8:] == ["1-09.jpg", "2-01.jpg"]
    assert playground.status() == "At most 10 candidates are ranked at once: 2 were left out."
    playground.rank()
    assert len(playground.texts(".card .number")) == 10


def test_more_bytes_than_a_request_has(opening: Opening) -> None:
    """Pictures that together are above the service's limit are not sent at all."""

    def lower(route: Route) -> None:
        answer = route.fetch()
        content = answer.json()
        content["limits"]["max_body_bytes"] = 6000
        route.fulfill(response=answer, json=content)

    with opening() as playground:
        playground.page.route("**/info", lower)
        playground.page.reload()
        playground.page.wait_for_selector("#model[data-state=ready]")
        playground.add("1-03.jpg", "1-09.jpg")
        playground.page.fill("#prompt", PROMPT)
        playground.page.click("#rank")
        playground.page.wait_for_selector(".problem")
        assert playground.texts("#alert code") == ["payload_too_large"]
        assert not [request for request in playground.requests if request.method == "POST"]


def test_what_is_missing_is_asked_for(playground: Playground) -> None:
    """Without a prompt or pictures nothing is sent, and the focus goes where it is needed."""
    page = playground.page
    page.click("#rank")
    assert (playground.status(), page.evaluate("document.activeElement.id")) == (
        "Say what the pictures were meant to show.",
        "prompt",
    )
    page.keyboard.type("a cup")
    page.click("#rank")
    assert (playground.status(), page.evaluate("document.activeElement.id")) == (
        "Add a picture first.",
        "files",
    )


def test_an_overload_that_ends(playground: Playground) -> None:
    """An error that may pass has a button that tries again; the pictures stay."""
    page = playground.page
    playground.add("1-03.jpg", "1-09.jpg")
    page.route(
        "**/score-batch",
        lambda route: route.fulfill(
            status=429, content_type="application/problem+json", body=json.dumps(OVERLOADED)
        ),
    )
    playground.rank()
    assert page.get_attribute("#alert", "role") == "alert"
    assert playground.texts(".problem > *") == [
        "The service is overloaded.",
        "Too many images are waiting.",
        "overloaded · request 4f1c8a52d0e34b7b",
        "Try again",
    ]
    page.unroute("**/score-batch")
    page.click(".problem button")
    page.wait_for_selector(".card[data-state=ranked]")
    assert page.locator(".problem").count() == 0


def test_a_service_that_is_away(playground: Playground) -> None:
    """A request that reaches nobody is said to, and may be sent again."""
    playground.add("1-09.jpg")
    playground.page.route("**/score-batch", lambda route: route.abort("connectionrefused"))
    playground.page.fill("#prompt", PROMPT)
    playground.page.click("#rank")
    playground.page.wait_for_selector(".problem")
    assert playground.texts("#alert strong") == ["The service cannot be reached."]
    playground.troubles = [text for text in playground.troubles if "ERR_CONNECTION_REFUSED" not in text]


def test_stopped(playground: Playground) -> None:
    """While a ranking is under way the button stops it, and everything can be ranked again."""
    page = playground.page
    playground.add("1-03.jpg", "1-09.jpg")
    held: list[Route] = []
    page.route("**/score-batch", lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks it
    page.fill("#prompt", PROMPT)
    page.click("#rank")
    page.wait_for_selector(".card[data-state=waiting]")
    assert playground.status() == "Ranking 2 pictures …"
    assert page.get_attribute("#gallery", "aria-busy") == "true"
    page.click("#rank:text-is('Stop')")
    page.wait_for_selector("#rank:text-is('Rank')")
    assert playground.status() == "Stopped."
    assert page.locator(".card[data-state=new]").count() == 2
    page.unroute("**/score-batch")
    playground.rank()
    assert playground.texts(".card .number") == ["1", "2"]


def test_a_ranking_of_another_prompt(playground: Playground) -> None:
    """When the prompt changes after a ranking, its scores are shown as those of another prompt."""
    playground.add("1-03.jpg", "1-09.jpg")
    playground.rank()
    titles = []
    for prompt in (PROMPT, "something else", PROMPT):
        playground.page.fill("#prompt", prompt)
        titles.append(playground.page.inner_text("#gallery-title"))
    assert titles == ["Ranking", "Ranking of the earlier prompt", "Ranking"]


def test_the_key(opening: Opening) -> None:
    """Without a key the page asks for one; a wrong one is refused, the right one kept in the tab.

    It is in no address and in nothing that outlives the tab, and can be forgotten.
    """
    with opening(key=None) as playground:
        page = playground.page
        assert playground.texts("#alert strong") == ["A valid API key is needed."]
        assert page.inner_text("#model") == "an API key is needed"
        page.click("text=Enter a key")
        assert page.evaluate("document.activeElement.id") == "key"
        page.keyboard.press("Enter")
        assert page.inner_text("#key-trouble") == "Type or paste a key."
        page.fill("#key", "wrong")
        with page.expect_response("**/info") as refused:
            page.keyboard.press("Enter")
        assert refused.value.status == 401
        page.click("text=Enter a key")
        page.fill("#key", API_KEY)
        page.click("text=Use this key")
        page.wait_for_selector("#model[data-state=ready]")
        assert page.locator(".problem").count() == 0
        page.reload()
        page.wait_for_selector("#model[data-state=ready]")
        playground.add("1-09.jpg")
        playground.rank()
        assert playground.texts(".card .raw dd") == ["2.007"]
        assert not [request.url for request in playground.requests if API_KEY in request.url]
        assert API_KEY not in page.url + page.evaluate("JSON.stringify(localStorage) + document.cookie")
        page.click("#open-key")
        page.click("text=Forget it")
        page.wait_for_selector("#model[data-state=failing]")
        assert API_KEY not in page.evaluate("JSON.stringify(sessionStorage)")
    with opening(key=None) as playground:  # another window knows nothing of it
        assert playground.page.inner_text("#model") == "an API key is needed"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(opening: Opening, scheme: str) -> None:
    """The colours are the system's until the button is pressed; then the choice is kept."""
    other = "dark" if scheme == "light" else "light"

    def ground(page: Page) -> str:
        red = int(page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"))
        return "light" if red > 127 else "dark"

    with opening(color_scheme=scheme) as playground:
        page = playground.page
        assert ground(page) == scheme
        assert page.get_attribute("#theme", "aria-pressed") == str(scheme == "dark").lower()
        page.click("#theme")
        assert ground(page) == other
        assert page.get_attribute("#theme", "aria-pressed") == str(other == "dark").lower()
        page.reload()
        assert ground(page) == other


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_accessibility(opening: Opening, scheme: str, width: int) -> None:
    """In no state does axe-core find anything serious, and nothing sticks out sideways."""
    with opening(color_scheme=scheme, width=width) as playground:
        page = playground.page
        found = {"empty": _violations(page)}
        playground.add("1-03.jpg", "1-09.jpg", "examples.json")
        playground.add_address("http://169.254.169.254/" + "long" * 30 + ".png")
        page.click("summary")
        found["candidates"] = _violations(page)
        playground.rank()
        found["ranking"] = _violations(page)
        page.fill("#prompt", "another prompt, whose words are so many that they need a second line " * 3)
        found["ranking of an earlier prompt"] = _violations(page)
        page.route("**/score-batch", lambda route: route.fulfill(status=429, json=OVERLOADED))
        page.click("#rank")
        page.wait_for_selector(".problem")
        found["error"] = _violations(page)
        page.click("#open-key")
        page.click("text=Use this key")
        page.click("#open-key")
        found["key"] = _violations(page)
        assert not any(found.values()), found


def _violations(page: Page) -> list[str]:
    """List what axe-core finds, with its place, and what is wider than the window."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return [
        f"{item['id']} ({item['impact']}): {item['nodes'][0]['html'][:200]}"
        for item in found
        if item["impact"] in {"serious", "critical"}
    ] + [f"{page.evaluate(wide)} pixels too wide"] * bool(page.evaluate(wide))
