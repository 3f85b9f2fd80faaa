"""How files are divided up that are brought to storage."""

from spell_runner.outputs import Found
from spell_runner.saving import BATCH_BYTES, BATCH_FILES_MAX, batches


def sizes(*several):
    return {f"{at:05}": Found(f"{at:05}", "", 0o644, size, 0) for at, size in enumerate(several)}


def test_all_files_come_once_and_in_order():
    placed = sizes(*[1] * (2 * BATCH_FILES_MAX + 1))

    made = list(batches(dict(reversed(placed.items()))))

    assert [len(batch) for batch in made] == [BATCH_FILES_MAX, BATCH_FILES_MAX, 1]
    assert [path for batch in made for path in batch] == list(placed)


def test_few_large_files_are_some_batches_too_so_that_reading_and_sending_overlap():
    made = list(batches(sizes(BATCH_BYTES, BATCH_BYTES // 2, BATCH_BYTES // 2, 1, 0)))

    assert [len(batch) for batch in made] == [1, 2, 2]


def test_without_files_there_is_nothing_to_bring():
    assert list(batches({})) == []
