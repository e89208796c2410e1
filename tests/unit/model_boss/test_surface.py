"""What other packages may use."""

import model_boss
from model_boss import errors as drawn_errors


def test_the_public_surface_is_exactly_this() -> None:
    """A name that appears here or goes is a decision, not an accident."""
    assert sorted(model_boss.__all__) == [
        "Answer",
        "Capacity",
        "CapacityUnknown",
        "Claim",
        "ClaimConflict",
        "ClaimRefused",
        "ClaimTooLarge",
        "DeviceMemory",
        "Ending",
        "Granted",
        "InvalidClaim",
        "InvalidUrl",
        "Lease",
        "LeaseLost",
        "LeaseOptions",
        "Ledger",
        "LedgerOptions",
        "LedgerUnavailable",
        "Meter",
        "ModelBossError",
        "NotGranted",
        "Nvml",
        "OnOutage",
        "Phase",
        "Renewal",
        "Row",
        "Shared",
        "Table",
        "TtlMismatch",
        "WaitReason",
        "Waiting",
        "render",
    ]


def test_every_public_name_exists() -> None:
    """Nothing is promised that cannot be imported."""
    assert [name for name in model_boss.__all__ if not hasattr(model_boss, name)] == []


def test_every_error_has_the_one_root() -> None:
    """Whoever catches `ModelBossError` catches all that the package raises on purpose."""
    errors = [
        thing
        for thing in (getattr(model_boss, name) for name in model_boss.__all__)
        if isinstance(thing, type) and issubclass(thing, Exception)
    ]
    assert len(errors) == 11
    assert [error for error in errors if not issubclass(error, model_boss.ModelBossError)] == []
    drawn = drawn_errors.__doc__ or ""
    assert [error.__name__ for error in errors if error.__name__ not in drawn] == []
