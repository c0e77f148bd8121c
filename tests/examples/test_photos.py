"""A folder of photographs and a spreadsheet, over three days: nothing asked twice, nothing lost, everything said."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("timm")

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "photos"))

import contact_sheet
import label_files
import photo_demo
import photo_status
import photos
import picture_files
from picture_files import Problem

PHOTOS = Path(photos.__file__).parent
QUICK = ["--network", "test_resnet", "--size", "32", "--epochs", "3", "--no-flip", "--quiet"]


def call(*options: object) -> int:
    return photos.main([*map(str, options), *QUICK])


def day(folder: Path, *options: str) -> str:
    """Call the program as a person does, in a process of its own; return what it said."""
    command = [sys.executable, str(PHOTOS / "photos.py"), *options, *QUICK]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PHOTOS.parents[1])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lines(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def write(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def place(tmp_path):
    """A folder with pictures of digits in it, and what they show."""
    (tmp_path / "trip").mkdir()
    labels = photo_demo.write_pictures(tmp_path / "trip", 90, 32)
    return tmp_path, labels


@pytest.mark.slow
def test_three_days(place):
    folder, truth = place
    trip, table, offers = folder / "trip", folder / "labels.csv", folder / "next.csv"
    (trip / "empty.jpg").write_bytes(b"")
    whole = (trip / "picture-000.png").read_bytes()
    (trip / "half.png").write_bytes(whole[: len(whole) // 2])
    (trip / ".hidden.png").write_bytes(b"no picture")
    accents = trip / "ärzte"
    accents.mkdir()
    shutil.move(trip / "picture-001.png", accents / "größe 1.png")
    truth["ärzte/größe 1.png"] = truth.pop("picture-001.png")

    said = day(folder, "next", "trip", "--number", "15")
    assert "90 photographs, 0 with a label" in said
    assert "2 cannot be read and are left out:\n  empty.jpg: the file is empty\n  half.png: " in said
    assert "total" in said  # of the costs
    first = lines(offers)
    assert len(first) == 15
    assert {row["why"] for row in first} == {"typical", "to measure"}
    assert not table.exists()

    rest, asked = first[5:], [row["file"] for row in first]
    own = [{"file": row["file"], "label": f" {truth[row['file']]} "} for row in first[:5]]
    write(table, [*own, {"file": "gone.jpg", "label": "digit 1"}], ";")
    for row in rest[:8]:
        row["label"] = truth[row["file"]]
    rest[0]["label"], rest[1]["label"] = "Skip", "unsure"  # the last two stay open
    write(offers, [*first[:5], *rest])
    before = table.read_bytes()

    said = day(folder, "next", "trip", "--number", "15")
    assert "11 with a label, 2 asked for and open" in said
    assert "left out: 1 skip, 1 unsure" in said
    assert "1 have a label and are not in the folder" in said
    second = lines(offers, ";")  # as the user's own table is written
    new, still_open, answered = second[:15], second[15:17], second[17:]
    assert not {row["file"] for row in new} & set(asked)
    assert [row["file"] for row in still_open] == asked[-2:]
    assert [(row["file"], row["label"]) for row in answered] == [(row["file"], row["label"]) for row in rest[:8]]
    assert all(row["guess"] in truth.values() for row in new if row["why"] == "uncertain")
    assert not any(row["guess"] for row in new if row["why"] == "to measure")

    for row in second[:17]:
        row["label"] = truth[row["file"]]
    write(offers, second, ";")
    said = day(folder, "next", "trip", "--number", "15")
    assert "28 with a label, 0 asked for and open" in said
    third = lines(offers, ";")
    assert len({row["file"] for row in third}) == len(third) == 15 + 8 + 17
    assert not {row["file"] for row in third[:15]} & {row["file"] for row in first + second}
    costs = [line.split() for line in said.splitlines() if "train_proxy" in line]
    assert [cells[0] for cells in costs] == ["1", "2"]
    assert table.read_bytes() == before
    assert not list(folder.glob("*.part"))

    assert call("next", trip, "--labels", table, "--number", "50", "--unsure") == 0
    assert [row["label"] for row in lines(offers, ";") if row["file"] == rest[1]["file"]] == [""]


def test_status_and_finish(place, capsys):
    folder, truth = place
    table = folder / "labels.csv"
    options = [folder / "trip", "--labels", table, "--check", "0.3"]
    assert call("status", *options) == 2
    assert "too few to tell; call 'next'" in capsys.readouterr().err
    write(table, [{"file": name, "label": label} for name, label in list(truth.items())[:75]])
    before = contents(folder)
    assert call("status", *options) == 0
    said = capsys.readouterr().out
    assert "photographs held out to measure; of all of them between" in said
    assert "the second half of the labels brought" in said
    assert contents(folder) == before
    assert call("finish", *options) == 0
    found = lines(folder / "predictions.csv")
    assert [row["file"] for row in found] == sorted(truth)
    assert {row["label"] for row in found} <= set(truth.values())
    assert all(row["label"] == truth[row["file"]] for row in found if row["by"] == "you")
    assert sum(row["by"] == "network" for row in found) == 15


def test_pretrained_weights_are_used_by_a_probe(place, capsys):
    import timm
    import torch

    folder, _ = place
    with torch.random.fork_rng():
        network = timm.create_model("test_resnet")
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean += 0.1  # as of a network that has seen pictures
    torch.save(network.state_dict(), folder / "weights.pth")
    options = [folder / "trip", "--labels", folder / "labels.csv", "--number", "12"]
    assert call("next", *options, "--weights", folder / "weights.pth") == 0
    photo_demo.answer(folder / "next.csv", photo_demo.write_pictures(folder / "trip", 90, 32))
    assert call("next", *options, "--weights", folder / "weights.pth") == 0
    said = capsys.readouterr().out
    assert "features" in said  # of a frozen trunk
    assert "without having seen a photograph" not in said
    assert "was begun without weights" not in said
    assert call("next", *options, "--weights", folder / "none.pth") == 2
    assert "none.pth" in capsys.readouterr().err
    (folder / "photos.safetensors").unlink()
    assert call("next", *options) == 0
    assert "without having seen a photograph" in capsys.readouterr().out
    assert call("next", *options, "--weights", folder / "weights.pth") == 0
    assert "was begun without weights" in capsys.readouterr().out


def test_no_labels_left_and_fewer_photographs_than_asked_for(place, capsys):
    folder, truth = place
    options = [folder / "trip", "--labels", folder / "labels.csv"]
    assert call("next", *options, "--number", "500") == 0
    assert len(lines(folder / "next.csv")) == 90
    assert call("next", *options) == 0
    assert "nothing left to ask for: 90 are asked for already" in capsys.readouterr().out
    write(folder / "labels.csv", [{"file": name, "label": label} for name, label in truth.items()])
    assert call("next", *options) == 0
    assert "nothing left to ask for: all are answered" in capsys.readouterr().out


# ---- tables ----

NAMES = ["a.jpg", "b.jpg", "sub/c d.jpg", "grün.jpg"]
PLAIN = {"a.jpg": "cat", "sub/c d.jpg": "dog"}


@pytest.mark.parametrize(
    "content",
    [
        b"file,label\na.jpg,cat\nsub/c d.jpg,dog\n",
        b"\xef\xbb\xbffile,label\r\na.jpg,cat\r\nsub/c d.jpg,dog\r\n",
        "file;label\na.jpg;cat\nsub/c d.jpg;dog\n".encode("utf-16"),
        b" File ; LABEL \n a.jpg ; cat \n\n sub/c d.jpg ;dog\n",
        b"file\tlabel\na.jpg\tcat\nsub/c d.jpg\tdog\n",
        b"who,Class,filename,when\nAnn,cat,a.jpg,monday\nBob,dog,sub\\c d.jpg,\n",
        b"a.jpg,cat\nsub/c d.jpg,dog\n",
        b'file,label\n"a.jpg","cat"\n./sub/c d.jpg,dog\n',
        b"file,label\nA.JPG,cat\nsub/c d.jpg,dog\na.jpg,cat\nb.jpg,\n",
        b"file,label,note\na.jpg,cat\nsub/c d.jpg,dog,far,away\n",
        b"file,label\na.jpg,cat\na.jpg,unsure\nsub/c d.jpg,dog\n",
    ],
)
def test_tables_are_read_as_people_write_them(tmp_path, content):
    (tmp_path / "labels.csv").write_bytes(content)
    found = label_files.gather(tmp_path / "labels.csv", tmp_path / "next.csv", NAMES)
    assert found.of == PLAIN
    assert not [*found.conflicts, *found.gone, *found.said]


def test_what_is_odd_in_a_table_is_said_and_nothing_is_lost(tmp_path):
    table, offers = tmp_path / "labels.csv", tmp_path / "next.csv"
    table.write_bytes(b"file,label\na.jpg,cat\na.jpg,dog\ngone.jpg,cat\n,cat\nb.jpg,Cat\nbroken.jpg,cat\n")
    offers.write_bytes(
        "file,label,why,mine\nb.jpg,Cat,typical,x\ngrün.jpg,cat,typical,y\nold.jpg,dog,,z\n".encode("cp1252")
    )
    found = label_files.gather(table, offers, NAMES, ["broken.jpg"])
    assert found.of == {"b.jpg": "Cat", "grün.jpg": "cat"}
    assert found.conflicts == {"a.jpg": "'cat' (labels.csv, line 2), 'dog' (labels.csv, line 3)"}
    assert found.gone == ["gone.jpg", "old.jpg"]
    assert [row.cells["mine"] for row in found.answered] == ["y", "z"]  # b.jpg stands in the user's own table as well
    said = " | ".join(found.said)
    assert "labels.csv, line 5: the label 'cat' stands beside no file" in said
    assert "next.csv is not in UTF-8" in said
    assert "'Cat' (1) and 'cat' (1) count as different labels" in said


def test_names_that_differ_in_capital_letters_alone_are_told_apart(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label\nA.jpg,cat\na.jpg,dog\na.JPG,cow\n")
    found = label_files.gather(tmp_path / "labels.csv", tmp_path / "next.csv", ["a.jpg", "A.jpg"])
    assert (found.of, found.gone) == ({"A.jpg": "cat", "a.jpg": "dog"}, ["a.JPG"])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("labels.csv", b"photo,what\na.jpg,cat\n", "has the columns 'photo', 'what', and none is called 'label'"),
        ("labels.csv", b"PK\x03\x04rest of a workbook", "is a workbook; save it as CSV"),
        ("next.csv", b"number,label\n1,cat\n", "and none is called 'file'"),
        ("photos.safetensors", b"no selector", "does not go with these options"),
        (
            "labels.csv",
            "\n".join(["file,label", *(f"picture-{n:03d}.png,kind {n}" for n in range(40))]).encode(),
            "room",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_and_all_stays_as_it_was(place, capsys, name, content, says):
    folder, _ = place
    (folder / name).write_bytes(content)
    before = contents(folder)
    assert call("next", folder / "trip", "--labels", folder / "labels.csv") == 2
    assert says in capsys.readouterr().err
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no folder"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "there are no photographs in"),
        (lambda folder: [path.write_bytes(b"x") for path in folder.iterdir()], "none of the 90 photographs"),
    ],
)
def test_folders_without_photographs(place, capsys, make, says):
    folder, _ = place
    make(folder / "trip")
    assert call("next", folder / "trip", "--labels", folder / "labels.csv") == 2
    assert says in capsys.readouterr().err
    assert not contents(folder)


def test_a_table_that_cannot_be_written_stays_as_it_was(place, capsys, monkeypatch):
    folder, _ = place
    options = [folder / "trip", "--labels", folder / "labels.csv", "--number", "9"]
    assert call("next", *options) == 0
    before = (folder / "next.csv").read_bytes()

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(label_files, "replacing", refuse)
    assert call("next", *options) == 2
    assert "if it is open in a spreadsheet, close it there; what was there is as it was" in capsys.readouterr().err
    assert (folder / "next.csv").read_bytes() == before


# ---- pictures ----


def test_pictures_come_as_the_camera_was_held(tmp_path):
    upright = np.zeros((64, 64, 3), np.uint8)
    upright[:32] = 255  # light above, dark below
    turned = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright), 8: np.rot90(upright, -1)}
    for orientation, pixels in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"{orientation}.jpg", exif=exif, quality=95)
    found = picture_files.read(tmp_path, 16, progress=False)
    assert found.names == ["1.jpg", "3.jpg", "6.jpg", "8.jpg"]
    assert (found.pixels[:, :, :6] > 200).all()
    assert (found.pixels[:, :, 10:] < 55).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_pictures_of_every_kind_are_read(tmp_path, mode):
    grey = np.full((40, 60), 128, np.uint8)
    picture = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    picture.save(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"))
    pixels = picture_files.read(tmp_path, 16, progress=False).pixels
    assert pixels.shape == (1, 3, 16, 16)
    assert abs(float(pixels.mean()) - 128) < 40


def test_reading_leaves_the_filters_of_warnings_alone(tmp_path):
    for number in range(40):
        Image.new("L", (200, 200), number).save(tmp_path / f"{number}.png")
    before = list(warnings.filters)
    picture_files.read(tmp_path, 16, progress=False)
    assert warnings.filters == before


def test_unreadable_pictures_leave_no_gap(tmp_path):
    for number, value in enumerate((10, 20, 30)):
        Image.new("L", (20, 20), value).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"damaged")
    (tmp_path / "9.heic").write_bytes(b"anything")
    found = picture_files.read(tmp_path, 16, progress=False)
    assert found.names == ["0.png", "2.png"]
    assert found.pixels[:, 0, 0, 0].tolist() == [10, 30]
    assert "export it as JPEG" in found.unreadable["9.heic"]


def test_the_contact_sheet_has_each_picture_in_its_place(tmp_path):
    names = [f"{number}.png" for number in range(7)]
    for number, name in enumerate(names):
        Image.new("L", (50, 50), 30 * number).save(tmp_path / name)
    (tmp_path / "sheet.png").write_bytes(contact_sheet.draw(tmp_path, [(n, n * 20, "cat") for n in names]))
    with Image.open(tmp_path / "sheet.png") as sheet:
        step, side, gap = contact_sheet.SIDE + contact_sheet.GAP, contact_sheet.SIDE, contact_sheet.GAP
        row = step + contact_sheet.TEXT
        assert sheet.size == (5 * step + gap, 2 * row + gap)
        middles = [sheet.getpixel((gap + n % 5 * step + side // 2, gap + n // 5 * row + side // 2)) for n in range(7)]
    assert middles == [(30 * n,) * 3 for n in range(7)]


# ---- what status says ----


def made(labels: int, right: int, of: int = 100, same: int = 200) -> photo_status.Point:
    return photo_status.Point(labels, np.arange(of) < right, (np.arange(200) % 4 + (np.arange(200) >= same)) % 4)


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ([made(50, 60), made(75, 70), made(100, 80, same=100)], "more labels still help"),
        ([made(50, 80), made(75, 80), made(100, 80, same=100)], "more labels may still help: the answers still change"),
        ([made(50, 80), made(75, 80), made(100, 80)], "you may stop"),
        ([made(50, 3, of=5), made(75, 4, of=5), made(100, 5, of=5)], "too few are held out to say more"),
    ],
)
def test_status_says_whether_to_go_on(points, says):
    assert says in "\n".join(photo_status.verdict(points))


def test_estimates_of_status():
    points = [made(50, 60), made(100, 80), made(200, 90)]
    assert photo_status.expected(points, 400) == pytest.approx(0.95)
    assert photo_status.expected([made(50, 90), made(100, 80)], 200) is None
    low, high = photo_status.interval(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)  # Wilson (1927), as tables of it say
    assert photo_status.agreement(points[0], made(1, 1, same=100)) == pytest.approx(1 / 3, abs=0.01)


def test_the_problem_is_an_error_of_its_own():
    with pytest.raises(Problem):
        label_files.read_table(PHOTOS / "photos.py")
