"""What an owner may have saved: the decision."""

import pytest

from spell_proto.views import FilesUse
from spell_storage.quotas import QuotaError, check, full, shown_bytes

GB = 1 << 30


def use(files, size, files_max=100, bytes_max=10 * GB):
    return FilesUse(files=files, bytes=size, files_max=files_max, bytes_max=bytes_max)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (use(0, 0), use(100, 10 * GB)),
        (use(0, 0, 0, 0), use(10**9, 1 << 60, 0, 0)),
        (use(500, 20 * GB), use(500, 20 * GB)),
    ],
)
def test_what_fits_or_adds_nothing_is_let_through(before, after):
    check(before, after)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (use(101, 5), "your saved files would be 101 files, 100 are allowed; 'spell archive'"),
        (use(5, 12 * GB), "your saved files would be 12 GB, 10 GB are allowed; 'spell archive'"),
        (use(101, 12 * GB), "would be 101 files, 100 are allowed and 12 GB, 10 GB are allowed;"),
    ],
)
def test_what_passes_a_limit_is_refused_in_a_sentence(after, said):
    with pytest.raises(QuotaError) as refused:
        check(use(0, 0), after)

    assert said in refused.value.message
    assert (refused.value.status, refused.value.code) == (413, "quota_exceeded")


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (use(99, 9 * GB), None),
        (use(10**9, 1 << 60, 0, 0), None),
        (use(100, 5), "your saved files are 100 files, 100 are allowed; 'spell archive'"),
        (use(101, 12 * GB), "are 101 files, 100 are allowed and 12 GB, 10 GB are allowed;"),
    ],
)
def test_whoever_has_as_much_as_he_may_begins_nothing(now, said):
    problem = full(now)

    assert problem == said or said in problem


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KB"), (1_500_000, "1.431 MB"), (5 << 50, "5120 TB")],
)
def test_sizes_are_shown_short(size, text):
    assert shown_bytes(size) == text
