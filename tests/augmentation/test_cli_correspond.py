"""``egoloom correspond`` as a user calls it."""

import json

import pytest

from egoloom.cli.main import main


def test_points_there_and_back(kitchen, capsys):
    take = kitchen.select(view="exo")[0].take_id
    common = ["correspond", str(kitchen.path), "--take", take, "--time-s", "0.4", "--json"]
    main([*common, "--source", "ego", "--points", "32,40", "20,50", "44,50", "--boxes", "20,30,44,60"])
    found = json.loads(capsys.readouterr().out)
    assert found["target"] == "exo"
    assert len(found["points"]) == 3
    assert len(found["boxes"]) == 1
    seen = [row for row in found["points"] if row["visible"]]
    assert seen
    main([*common, "--points", ",".join(map(str, seen[0]["target"]))])
    back = json.loads(capsys.readouterr().out)["points"][0]
    assert back["visible"]
    assert back["target"] == pytest.approx(seen[0]["source"], abs=2.5)


def test_text_names_the_next_command(kitchen, capsys):
    main(["correspond", str(kitchen.path), "--take", "take_000000", "--points", "100,60"])
    out = capsys.readouterr().out
    assert out.startswith("exo 100, 60 -> ego")
    assert "next: egoloom view" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--take", "nothing", "--points", "1,2"], "no exo clip of the take"),
        (["--take", "take_000000"], "Nothing to carry over"),
        (["--take", "take_000000", "--points", "1;2"], "is not understood"),
        (["--take", "take_000000", "--boxes", "1,2,3"], "4 numbers"),
        (["--take", "take_000000", "--points", "1,2", "--time-s", "99"], "outside of the take"),
        (["--take", "take_", "--points", "1,2"], "--camera"),
    ],
)
def test_mistakes_are_named(kitchen, capsys, options, message):
    with pytest.raises(SystemExit) as exit_info:
        main(["correspond", str(kitchen.path), *options])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err
