"""Lines of progress, as clients read them."""

import msgspec

from appliance.image.progress import Progress, ProgressDetail, PushResult, layer_progress


def test_members_that_are_not_set_are_left_out() -> None:
    assert msgspec.to_builtins(Progress(status="Digest: x")) == {"status": "Digest: x"}
    assert msgspec.to_builtins(layer_progress("Pulling fs layer", "sha256:0123456789abcdef")) == {
        "status": "Pulling fs layer",
        "progressDetail": {},
        "id": "0123456789ab",
    }
    assert msgspec.to_builtins(layer_progress("Downloading", "sha256:0123456789abcdef", 0, 7)) == {
        "status": "Downloading",
        "progressDetail": {"current": 0, "total": 7},
        "id": "0123456789ab",
    }
    last = Progress(progress_detail=ProgressDetail(), aux=PushResult("v1", "sha256:x", 5))
    assert msgspec.to_builtins(last) == {"progressDetail": {}, "aux": {"Tag": "v1", "Digest": "sha256:x", "Size": 5}}


def test_only_counts_of_bytes_are_transient() -> None:
    assert layer_progress("Downloading", "x", 1, 2).is_transient
    assert not layer_progress("Pull complete", "x").is_transient
    assert not Progress(status="x").is_transient
