"""What `docker rmi` takes away, as moby daemon/images/image_delete.go."""

import pytest

from appliance.errors import Conflict
from appliance.image.removal import ImageUse, Removal, is_single_reference, plan_removal

_ID = f"sha256:{'ab' * 32}"
_SHORT = _ID[7:19]
_HUB = "docker.io/library"
_DIGEST = f"sha256:{'d' * 64}"
_APP, _APP2, _OTHER = f"{_HUB}/app:1", f"{_HUB}/app:2", f"{_HUB}/other:1"
_APP_DIGEST, _OTHER_DIGEST = f"{_HUB}/app@{_DIGEST}", f"{_HUB}/other@{_DIGEST}"
_FREE = ImageUse()
_STOPPED, _RUNNING, _PARENT = ImageUse(stopped="c0"), ImageUse(running="c1"), ImageUse(has_children=True)


@pytest.mark.parametrize(
    ("text", "names", "use", "force", "removal"),
    [
        ("app:1", [_APP], _FREE, False, Removal([_APP], True)),
        ("app:1", [_APP, _APP_DIGEST], _FREE, False, Removal([_APP, _APP_DIGEST], True)),
        # The digest stays with the other tag of its repository.
        ("app:1", [_APP, _APP2, _APP_DIGEST], _FREE, False, Removal([_APP], False)),
        # The digest goes with the last tag of its repository, although the image keeps a name.
        ("app:1", [_APP, _OTHER, _APP_DIGEST], _FREE, False, Removal([_APP, _APP_DIGEST], False)),
        ("app:1", [_APP, _APP_DIGEST, _OTHER_DIGEST], _FREE, False, Removal([_APP, _APP_DIGEST], False)),
        (f"app@{_DIGEST}", [_APP, _APP_DIGEST], _FREE, False, Removal([_APP_DIGEST], False)),
        (f"app@{_DIGEST}", [_APP_DIGEST], _FREE, False, Removal([_APP_DIGEST], True)),
        # An image in use keeps its last name, unless by force.
        ("app:1", [_APP, _OTHER], _RUNNING, False, Removal([_APP], False)),
        ("app:1", [_APP], _STOPPED, True, Removal([_APP], False)),
        ("app:1", [_APP], _RUNNING, True, Removal([_APP], False)),
        ("app:1", [_APP], _PARENT, False, Removal([_APP], False)),
        (_SHORT, [_APP, _APP_DIGEST], _FREE, False, Removal([_APP, _APP_DIGEST], True)),
        (_ID, [], _FREE, False, Removal([], True)),
        (_ID[:12], [_APP, _OTHER], _FREE, True, Removal([_APP, _OTHER], True)),
        (_SHORT, [_APP], _STOPPED, True, Removal([_APP], False)),
    ],
)
def test_what_goes(text: str, names: list[str], use: ImageUse, force: bool, removal: Removal) -> None:
    assert plan_removal(text, _ID, names, use, force=force) == removal


@pytest.mark.parametrize(
    ("text", "names", "use", "force", "message"),
    [
        (
            "app:1",
            [_APP, _APP_DIGEST],
            _STOPPED,
            False,
            f'unable to remove repository reference "app:1" (must force) - container c0 is using its referenced image {_SHORT}',
        ),
        (
            _SHORT,
            [_APP, _APP2],
            _FREE,
            False,
            f"unable to delete {_SHORT} (must be forced) - image is referenced in multiple repositories",
        ),
        (
            _SHORT,
            [_APP],
            _STOPPED,
            False,
            f"unable to delete {_SHORT} (must be forced) - image is being used by stopped container c0",
        ),
        (
            _SHORT,
            [_APP],
            _RUNNING,
            True,
            f"unable to delete {_SHORT} (cannot be forced) - image is being used by running container c1",
        ),
        (_ID, [], _PARENT, True, f"unable to delete {_SHORT} (cannot be forced) - image has dependent child images"),
    ],
)
def test_what_is_refused(text: str, names: list[str], use: ImageUse, force: bool, message: str) -> None:
    with pytest.raises(Conflict) as caught:
        plan_removal(text, _ID, names, use, force=force)
    assert str(caught.value) == f"conflict: {message}"


def test_single_references() -> None:
    assert [is_single_reference(names) for names in ([], [_APP], [_APP, _APP_DIGEST], [_APP_DIGEST])] == [
        False,
        True,
        True,
        True,
    ]
    assert not any(
        is_single_reference(names) for names in ([_APP, _APP2], [_APP, _OTHER_DIGEST], [_APP_DIGEST, _OTHER_DIGEST])
    )
