"""A real browser, and the playground of the real service in it."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.clients.conftest import API_KEY
from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from playwright.sync_api import Browser, Page, Request, ViewportSize

    from tests.integration.stack import RunningStack

    Opening = Callable[..., AbstractContextManager["Playground"]]

CHROMIUM: Final = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
EXAMPLES: Final = CHECKOUT / "examples"
PROMPT: Final = "a large red square on the right"


class Playground:
    """The page, as a person uses it, and what it has asked for."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.requests: list[Request] = []
        self.troubles: list[str] = []
        page.on("request", lambda request: self.requests.append(request))  # noqa: PLW0108 - Playwright marks it
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("console", self._hear)

    def _hear(self, message: Any) -> None:
        # Chromium also says which answers are errors; the page itself tells of those.
        if message.type in {"error", "warning"} and "status of" not in message.text:
            self.troubles.append(message.text)

    def add(self, *names: str) -> None:
        """Choose example pictures in the file dialog."""
        self.page.set_input_files("#files", [EXAMPLES / name for name in names])

    def add_address(self, address: str) -> None:
        """Type an address, and Enter."""
        self.page.fill("#address", address)
        self.page.press("#address", "Enter")

    def rank(self, prompt: str = PROMPT) -> None:
        """Rank what is there, and wait for the answer."""
        self.page.fill("#prompt", prompt)
        with self.page.expect_response("**/score-batch"):
            self.page.click("#rank")
        self.page.wait_for_selector("#rank:text-is('Rank')")

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements that are shown."""
        return [text.strip() for text in self.page.locator(f"{selector}:visible").all_inner_texts()]

    def names(self) -> list[str]:
        """Return the names of the candidates, in the order on the page."""
        return self.texts(".card .name")

    def status(self) -> str:
        """Return what a screen reader was told last."""
        return str(self.page.inner_text("#status"))


@pytest.fixture(scope="module")  # in a thread with its event loop no other loop can run
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def opening(browser: Browser, service: RunningStack) -> Opening:
    """A function that opens the playground in a window of its own."""

    @contextmanager
    def open_playground(
        *, key: str | None = API_KEY, width: int = 1440, **options: Any
    ) -> Iterator[Playground]:
        size: ViewportSize = {"width": width, "height": 900 if width > 600 else 812}
        context = browser.new_context(viewport=size, reduced_motion="reduce", **options)
        context.set_default_timeout(30_000)
        if key is not None:
            context.add_init_script(
                f"sessionStorage.getItem('begun') ?? sessionStorage.setItem('imajin-aesthetic-key', '{key}');"
                "sessionStorage.setItem('begun', 'yes')"
            )
        playground = Playground(context.new_page(), service.url)
        try:
            playground.page.goto(service.url)
            playground.page.wait_for_selector(f"#model[data-state={'failing' if key is None else 'ready'}]")
            yield playground
        finally:
            context.close()
        assert playground.troubles == []
        hosts = {request.url.split("/")[2] for request in playground.requests if "://" in request.url[:8]}
        assert hosts == {service.url.removeprefix("http://")}

    return open_playground


@pytest.fixture
def playground(opening: Opening) -> Iterator[Playground]:
    """The playground at the size of a desk, with the key."""
    with opening() as playground:
        yield playground
