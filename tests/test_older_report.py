"""What the report says of a run that comes from the older layout."""

import pytest

from edgejoule.dataset.older.importing import import_folder
from edgejoule.dataset.older.times import zone_of
from edgejoule.report.everything import write_everything
from edgejoule.report.write import gather
from tests.support_older import Recording


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported")
    Recording().write(folder / "old")
    import_folder(folder / "old", folder / "ds", zone_of("UTC"))
    path = write_everything(folder / "ds", gather(folder / "ds"), folder, figures=False)[1]
    return path.read_text(encoding="utf-8")


def test_energy_of_the_profiled_pass_stands_where_there_is_no_clean_one(page):
    assert "Energy: none" not in page
    assert "| profiled | in1 |" in page


def test_it_says_where_the_run_comes_from_and_no_command_repeats_it(page):
    assert "imported from the layout edgeprofiler" in page
    assert "taken from the profiler's callbacks" in page
    assert "To repeat it" not in page
