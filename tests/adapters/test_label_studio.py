"""Tasks and labels by way of a real Label Studio, which these tests start: SQLite, in a folder that goes afterwards."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import blobs, mlp, trainer
from hosts import need_host

need_host("label_studio", "label_studio_sdk")
SERVER = os.environ.get("PRUNEFUSE_LABEL_STUDIO", "")  # the program `label-studio`, in an environment of its own
if not SERVER:
    if "label_studio" in os.environ.get("PRUNEFUSE_HOSTS", "").split(","):
        raise RuntimeError("PRUNEFUSE_HOSTS asks for label_studio: say where the server is, PRUNEFUSE_LABEL_STUDIO=...")
    pytest.skip("PRUNEFUSE_LABEL_STUDIO does not say where the server is", allow_module_level=True)
# ruff: noqa: E402
import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from prunefuse_al import PrunedProxySelector, Selection
from prunefuse_al.adapters.label_studio import pull_labels, push_tasks
from prunefuse_al.data import as_dataset, subset
from prunefuse_al.errors import InputError

X, Y = blobs(90, 6, 3)
TOKEN = "0123456789abcdef0123456789abcdef01234567"
NAMES = ["cat", "dog", "cow"]
CHOICES = "".join(f'<Choice value="{name}"/>' for name in NAMES)
KIND = f'<Choices name="kind" toName="image" choice="multiple">{CHOICES}</Choices>'
CONFIG = f'<View><Image name="image" value="$image"/>{KIND}</View>'
OTHER = '<Choices name="light" toName="image"><Choice value="day"/><Choice value="night"/></Choices>'


def answers(url: str) -> bool:
    with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
        return bool(urllib.request.urlopen(url, timeout=5).status == 200)
    return False


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """A server of its own, and its first user."""
    folder = tmp_path_factory.mktemp("label-studio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_USERNAME": "first@example.com",
        "LABEL_STUDIO_PASSWORD": "a password of its own",
        "LABEL_STUDIO_USER_TOKEN": TOKEN,
        **{"HOME": str(folder), "LATEST_VERSION_CHECK": "false", "COLLECT_ANALYTICS": "false"},
        **{"SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "no_proxy": "127.0.0.1", "PYTHONPATH": ""},
    }
    command = [SERVER, "start", "--no-browser", "--port", str(port), "--internal-host", "127.0.0.1"]
    command += ["--data-dir", str(folder), "--log-level", "WARNING", "--enable-legacy-api-token"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env={**os.environ, **settings}, stdout=log, stderr=log)
    try:
        url, start = f"http://127.0.0.1:{port}", time.monotonic()
        while not answers(f"{url}/health"):
            gone = server.poll() is not None or time.monotonic() - start > 400
            assert not gone, (folder / "server.log").read_text()[-3000:]
            time.sleep(0.5)
        with httpx.Client(timeout=120) as http:
            yield LabelStudio(base_url=url, api_key=TOKEN, httpx_client=http)
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def second(client: LabelStudio) -> int:
    """Another annotator."""
    return int(client.users.create(username="second", email="second@example.com", password="another password").id)


@pytest.fixture
def project(client: LabelStudio) -> int:
    return int(client.projects.create(title="project", label_config=CONFIG, maximum_annotations=2).id)


def shown(row: int) -> dict[str, str]:
    return {"image": f"https://example.com/{row}.png"}


def annotate(client: LabelStudio, task: int, *choices: str, by: int = 1, skip: bool = False, **result: str) -> None:
    part = {"from_name": "kind", "to_name": "image", "type": "choices", **result, "value": {"choices": list(choices)}}
    client.annotations.create(id=task, result=[] if skip else [part], completed_by=by, was_cancelled=skip)


def tasks(client: LabelStudio, project: int) -> list[Any]:
    return list(client.tasks.list(project=project, fields="all"))


def choices(task: Any) -> list[str]:
    """Return what is predicted of a task."""
    found: list[str] = task.predictions[0].result[0]["value"]["choices"]
    return found


def test_tasks_are_handed_out_in_the_order_of_the_picks_with_predictions(client: LabelStudio, project: int) -> None:
    rows, p = [41, 3, 77, 0], np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.4, 0.3, 0.3]])
    numbers = push_tasks(client, project, rows, shown, classes=NAMES, probabilities=p, model_version="round 2")
    found = tasks(client, project)
    assert [task.id for task in found] == numbers == sorted(numbers)
    assert [task.data for task in found] == [{**shown(row), "row": row, "rank": n} for n, row in enumerate(rows, 1)]
    assert [choices(task) for task in found] == [["cow"], ["cat"], ["dog"], ["cat"]]
    assert [task.predictions[0].score for task in found] == [0.7, 0.5, 0.6, 0.4]
    assert {task.predictions[0].model_version for task in found} == {"round 2"}
    for row in rows:  # what an annotator is given next
        url = f"{client._client_wrapper.get_base_url().rstrip('/')}/api/projects/{project}/next"
        reply = httpx.get(url, headers={"Authorization": f"Token {TOKEN}"}, timeout=60).json()
        assert reply["data"]["row"] == row
        annotate(client, reply["id"], "cat")


def test_what_is_there_is_not_pushed_again(client: LabelStudio, project: int) -> None:
    first = push_tasks(client, project, [5, 6], shown)
    again = push_tasks(client, project, Selection([7, 6, 5, 8]), shown)
    assert [task.data["row"] for task in tasks(client, project)] == [5, 6, 7, 8]
    assert len({*first, *again}) == 4
    assert push_tasks(client, project, [8, 5], shown) == []
    assert not tasks(client, project)[0].predictions


def test_a_round_trip_of_the_whole_method(client: LabelStudio, project: int) -> None:
    """Rows are picked, pushed, labelled by a person, pulled, and trained on."""
    pool = as_dataset(X)
    selector = PrunedProxySelector(mlp(6, 16, 3), 0.5, trainer=trainer(), random_state=0).fit(X[:10], Y[:10])
    picked = selector.query(pool, 12, candidates=range(10, 90))
    push_tasks(
        *(client, project, picked, shown),
        classes=NAMES,
        probabilities=selector.predict_proba(subset(pool, picked)),
    )
    for task in tasks(client, project):
        annotate(client, task.id, NAMES[Y[task.data["row"]]])
    found = pull_labels(client, project, classes=NAMES)
    assert found.rows.tolist() == sorted(picked.tolist())
    assert found.labels.tolist() == Y[found.rows].tolist()
    assert not [*found.skipped, *found.disputed, *found.open]
    selector.fit(subset(as_dataset(X), found.rows), found.labels)
    assert selector.round == 2


def test_two_annotators(client: LabelStudio, project: int, second: int) -> None:
    rows = [30, 31, 32, 33, 34, 35, 36]
    number = dict(zip(rows, push_tasks(client, project, rows, shown), strict=True))
    annotate(client, number[30], "cat")
    annotate(client, number[30], "cat", by=second)
    annotate(client, number[31], "cat")
    annotate(client, number[31], "dog", by=second)  # disputed
    annotate(client, number[32], skip=True)
    annotate(client, number[32], "cow", by=second)  # one skipped it
    annotate(client, number[33], skip=True)
    annotate(client, number[34], "dog")
    annotate(client, number[34], "cow")  # thought better of it
    annotate(client, number[35], "dog")
    annotate(client, number[35], "cow", by=second)
    annotate(client, number[35], "dog")  # and again: nobody votes twice

    def pulled(rule: str) -> tuple[dict[int, str], list[int]]:
        found = pull_labels(client, project, classes=NAMES, disagree=rule)
        assert (found.skipped.tolist(), found.open.tolist(), found.others) == ([33], [36], 0)
        labels = [NAMES[label] for label in found.labels]
        return dict(zip(found.rows.tolist(), labels, strict=True)), found.disputed.tolist()

    agreed = {30: "cat", 32: "cow", 34: "cow"}
    assert pulled("majority") == (agreed, [31, 35])
    assert pulled("leave_out") == (agreed, [31, 35])
    assert pulled("newest") == ({**agreed, 31: "dog", 35: "dog"}, [])
    third = int(client.users.create(username="third", email="third@example.com", password="a third one").id)
    annotate(client, number[31], "dog", by=third)
    assert pulled("majority") == ({**agreed, 31: "dog"}, [35])
    assert pulled("leave_out") == (agreed, [31, 35])


def test_classes_that_are_renamed(client: LabelStudio, project: int) -> None:
    first, second_ = push_tasks(client, project, [1, 2], shown)
    annotate(client, first, "cat")
    both = CONFIG.replace('<Choice value="cat"/>', '<Choice value="cat"/><Choice value="Katze"/>')
    client.projects.update(id=project, label_config=both)
    annotate(client, second_, "Katze")
    with pytest.raises(InputError, match=r"choices that are in no class: 'Katze' \(1 times\); known are 'cat', 'dog'"):
        pull_labels(client, project, classes=NAMES)
    names = {"Katze": 0, "cat": 0, "dog": 1, "cow": 2}
    assert pull_labels(client, project, classes=names).labels.tolist() == [0, 0]
    push_tasks(client, project, [3], shown, classes=names, probabilities=[[0.9, 0.1, 0.0]])
    assert choices(tasks(client, project)[-1]) == ["Katze"]


def test_tasks_and_annotations_that_are_not_ours(client: LabelStudio, project: int) -> None:
    client.projects.import_tasks(project, request=[{"data": {"image": "https://example.com/other.png"}}])
    (number,) = push_tasks(client, project, [4], shown)
    found = pull_labels(client, project, classes=NAMES)
    assert (found.others, found.open.tolist(), found.rows.dtype, found.labels.dtype) == (1, [4], np.int64, np.int64)
    annotate(client, number, "cat", "dog")
    with pytest.raises(InputError, match=rf"task {number}: 2 choices in one annotation, \['cat', 'dog'\]"):
        pull_labels(client, project, classes=NAMES)
    client.projects.import_tasks(project, request=[{"data": {**shown(4), "row": 4}}])
    client.tasks.delete(id=str(number))
    (_, again) = tasks(client, project)
    client.projects.import_tasks(project, request=[{"data": {**shown(4), "row": 4}}])
    with pytest.raises(
        InputError, match=rf"row 4 has two tasks in project {project}, the second is task \d+: delete one"
    ):
        pull_labels(client, project, classes=NAMES)
    assert again.data["row"] == 4


def test_which_choices_of_several(client: LabelStudio) -> None:
    config = CONFIG.replace("</View>", f"{OTHER}</View>")
    project = int(client.projects.create(title="several", label_config=config).id)
    with pytest.raises(InputError, match=r"has 2 <Choices> \('kind', 'light'\): name one of them, control="):
        push_tasks(client, project, [1], shown)
    with pytest.raises(InputError, match=r"control='dark': project .* has the <Choices> 'kind', 'light'"):
        pull_labels(client, project, classes=NAMES, control="dark")
    (number,) = push_tasks(
        client, project, [1], shown, control="light", classes=["day", "night"], probabilities=[[0, 1]]
    )
    part = {"to_name": "image", "type": "choices"}
    result = [
        {"from_name": "kind", **part, "value": {"choices": ["cow"]}},
        {"from_name": "light", **part, "value": {"choices": ["night"]}},
    ]
    client.annotations.create(id=number, result=result, completed_by=1)
    assert pull_labels(client, project, classes=["day", "night"], control="light").labels.tolist() == [1]
    assert pull_labels(client, project, classes=NAMES, control="kind").labels.tolist() == [2]


BAD: list[tuple[Callable[[Any, int], Any], str]] = [
    (lambda c, p: push_tasks(c, p, [1, 1], shown), r"picked=\[1, 1\]; pass rows from 0, each once"),
    (lambda c, p: push_tasks(c, p, [-1], shown), r"picked=\[-1\]; pass rows from 0, each once"),
    (lambda c, p: push_tasks(c, p, [0.5], shown), r"picked=\[0.5\]; pass rows, whole numbers \[k\], or a Selection"),
    (lambda c, p: push_tasks(c, p, [1], {1: "x"}), "data={1: 'x'}; pass a function from a row"),
    (lambda c, p: push_tasks(c, p, [1], lambda row: None), r"data\(1\)=None; pass a dict such as"),
    (lambda c, p: push_tasks(c, p, [1], lambda row: {"row": 3}), r"data\(1\)={'row': 3}; pass a dict such as"),
    (lambda c, p: push_tasks(c, p, [1], shown, probabilities=[[1.0]]), "probabilities need classes="),
    (
        lambda c, p: push_tasks(c, p, [1], shown, classes=NAMES, probabilities=[[0.5, 0.5]]),
        r"probabilities=\[\[0.5, 0.5\]\]; pass finite floats \[1, 3\]",
    ),
    (
        lambda c, p: push_tasks(c, p, [1], shown, classes=NAMES, probabilities=[[0.5, 0.5, float("nan")]]),
        r"pass finite floats \[1, 3\]",
    ),
    (lambda c, p: push_tasks(c, p, [1], shown, classes=NAMES, probabilities="x"), r"probabilities='x'; pass floats"),
    (
        lambda c, p: push_tasks(c, p, [1], shown, classes=["cat", "hen"], probabilities=[[0.5, 0.5]]),
        "classes='hen': <Choices> 'kind' has 'cat', 'dog', 'cow'",
    ),
    (lambda c, p: push_tasks(None, p, [1], shown), "client.projects=None; pass a label_studio_sdk.LabelStudio"),
    (lambda c, p: push_tasks(c, "one", [1], shown), "project='one'; pass the number of a project"),
    (
        lambda c, p: pull_labels(c, p, classes=NAMES, disagree="vote"),
        "disagree='vote'; pass one of 'majority', 'newest'",
    ),
    (lambda c, p: pull_labels(c, p, classes="cat"), "classes='cat'; pass the names of the classes in their order"),
    (lambda c, p: pull_labels(c, p, classes=[]), r"classes=\[\]; pass the names of the classes"),
    (lambda c, p: pull_labels(c, p, classes=["cat", "cat"]), r"classes=\['cat', 'cat'\]; pass the names"),
    (lambda c, p: pull_labels(c, p, classes={"cat": 0, "dog": 2}), "classes={'cat': 0, 'dog': 2}; pass the names"),
    (lambda c, p: pull_labels(c, p, classes={"cat": "0"}), r"classes\['cat'\]='0'; pass a whole number from 0"),
]


@pytest.mark.parametrize(("call", "says"), BAD)
def test_what_cannot_be_used_is_refused_and_nothing_is_pushed(
    client: LabelStudio, project: int, call: Callable[[Any, int], Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        call(client, project)
    assert tasks(client, project) == []


def test_what_the_server_refuses_is_its_own_error(client: LabelStudio) -> None:
    with pytest.raises(ApiError, match="404"):
        push_tasks(client, 9999, [1], shown)


def test_many_tasks_are_read_page_by_page(client: LabelStudio, project: int, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).permutation(250)
    assert len(push_tasks(client, project, rows, shown)) == 250
    assert pull_labels(client, project, classes=NAMES).open.tolist() == list(range(250))
