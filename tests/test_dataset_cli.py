"""`data_version.py`: what it prints and how it ends."""

import json
import shutil

import pytest

from edgejoule.cli.data_version import build_parser, main
from tests.support_dataset import build_run, reseal, write_partial
from tests.support_dataset_kill import orphan


def test_verify_of_a_right_dataset(tmp_path, capsys):
    build_run(tmp_path, model="a")
    run = build_run(tmp_path, model="b")
    assert main(["verify", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 2 right, 0 incomplete, 0 wrong\n"
    assert main(["verify", str(run)]) == 0


def test_verify_names_what_is_wrong(tmp_path, capsys):
    run = build_run(tmp_path)
    (run / "layers.parquet").unlink()
    (tmp_path / "plots").mkdir()
    assert main(["verify", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "error: lenet/layers.parquet: is missing\n" in out
    assert "note: plots: is no run\n" in out
    assert main(["verify", "--json", str(tmp_path)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["runs"][0]["findings"] == [
        {"file": "layers.parquet", "problem": "is missing", "severity": "error"}
    ]


def test_verify_of_an_incomplete_run(tmp_path, capsys):
    reseal(build_run(tmp_path), status="incomplete", missing=["killed"])
    assert main(["verify", str(tmp_path)]) == 1
    assert "incomplete: lenet/run.json: incomplete: killed" in capsys.readouterr().out
    assert main(["verify", "--allow-incomplete", str(tmp_path)]) == 0
    assert "0 right, 1 incomplete, 0 wrong" in capsys.readouterr().out


def test_verify_of_no_dataset(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


def test_recover_says_what_became_of_each(tmp_path, capsys):
    orphan(write_partial(tmp_path, name="a"))
    live = write_partial(tmp_path, name="b")
    assert main(["recover", str(tmp_path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("recovered: a-")
    assert "-> a--incomplete-" in out[0]
    assert out[1] == f"live: {live.name} (is being measured or recovered)"
    shutil.rmtree(live)
    assert main(["recover", str(tmp_path)]) == 0
    assert "nothing to recover" in capsys.readouterr().out


def test_recover_ends_with_1_where_it_could_not(tmp_path):
    partial = write_partial(tmp_path)
    orphan(partial)
    partial.rename(partial.with_name("_x-1"))
    assert main(["recover", str(tmp_path)]) == 1


@pytest.mark.parametrize("verb", ["init", "verify", "recover", "push", "pull"])
def test_every_verb_teaches(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([verb, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) > 8
    assert "raw_data" in text


def test_no_verb_is_a_usage_error():
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
