"""Every command line and every Python block of the pages is run, page by page, in the page's order.

    pytest -m docs tests/docs                # minutes; -k sweeps: one page

So is every example of a `--help`. What the sandbox changes and what is left out stands in tables.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest

from tests.data.captions.endpoint import Reply, caption, serving
from tests.docs.pages import PAGES, ROOT, Block, blocks, examples, lines
from tests.docs.sandbox import Sandbox, replayed, start_warm
from tests.docs.warm import COMMANDS

RUNNABLE = {"bash", "python"}
HELPS = [(ROOT / module.replace(".", "/")).with_suffix(".py") for module in COMMANDS.values()]


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Sandbox]]:
    """Makes the sandbox of a page: the warm process, the hub's cache and the endpoint are the same for all."""
    from tests.docs.places import makers, write_hub

    folder = tmp_path_factory.mktemp("docs")
    write_hub(folder / "hub")
    warm = start_warm(folder, folder / "hub")
    with serving(lambda name, _prompt, _before: Reply(text=caption(name))) as endpoint:
        common = Sandbox(folder / "kitchen", warm, endpoint.url, folder / "hub", {}, folder)
        common.root.mkdir()
        shared = makers(common)
        yield lambda page: Sandbox(
            folder / f"{page.parent.name}-{page.stem}", warm, endpoint.url, folder / "hub", shared, page
        )
    warm.end()


@pytest.fixture(scope="module")
def replays(
    kitchen: Callable[[Path], Sandbox], request: pytest.FixtureRequest
) -> Iterator[dict[Path, Future[list[str]]]]:
    """What went wrong on each of the chosen pages; a page a core at a time."""
    chosen = [item.callspec.params["page"] for item in request.session.items if "replays" in item.fixturenames]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {page: pool.submit(_failures, kitchen(page)) for page in chosen}


@pytest.mark.docs
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_does_what_the_page_says(page: Path, replays: dict[Path, Future[list[str]]]) -> None:
    failures = replays[page].result()
    assert not failures, "\n\n".join(failures)


@pytest.mark.docs
@pytest.mark.parametrize("page", HELPS, ids=lambda page: page.stem)
def test_every_example_of_a_help_text_runs(page: Path, replays: dict[Path, Future[list[str]]]) -> None:
    assert list(lines(_blocks(page)[0]))
    failures = replays[page].result()
    assert not failures, "\n\n".join(failures)


def _blocks(page: Path) -> list[Block]:
    if page in HELPS:
        return [examples(import_module(f"pipeline.commands.{page.stem}").main, page)]
    return [block for block in blocks(page) if block.language in RUNNABLE and not block.is_script]


def _failures(sandbox: Sandbox) -> list[str]:
    """Of the sandbox's page: each command or block that did not end as the page says."""
    with replayed(sandbox):
        return [failure for block in _blocks(sandbox.page) for failure in _of_block(sandbox, block)]


@pytest.mark.docs
def test_what_a_page_says_wrongly_is_seen(
    kitchen: Callable[[Path], Sandbox], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "wrong.md"
    fence = "```"
    page.write_text(
        f"{fence}bash\ntrain-heads stores/msp --out runs/a     # exit 2\n"
        "train-heads stores/msp supcom --out runs/b     # exit 2\n"
        "extract-features my/manifest.csv --out stores/mine | false\n"
        "cat nothing.txt\npip install x && train-heads --no-such-option\n"
        f"search-speech stores/msp runs/c 'with joy' > found.txt\ngrep -q similarity found.txt\n{fence}\n"
        f"{fence}python\n# my_part.py\nVALUE = 3\n{fence}\n"
        f"{fence}python\nimport my_part\nvalue = my_part.VALUE\n{fence}\n"
        f"{fence}python\nassert value == 3\nassert value == 4\n{fence}\n"
    )
    failures = _failures(kitchen(page))
    places = [failure.partition("\n")[0] for failure in failures]
    assert [place.partition(": Trace")[0] for place in places] == [
        "wrong.md:2: exit 0, not 2",
        "wrong.md:4: exit 1, not 0",
        "wrong.md:5: exit 1, not 0",
        "wrong.md:6: exit 2, not 0",
        "wrong.md:19",
    ]
    assert "line 20" in failures[-1]


def _of_block(sandbox: Sandbox, block: Block) -> Iterator[str]:
    if block.language == "python":
        failed = sandbox.execute(block)
        if failed:
            yield f"{block.page.name}:{block.line}: {failed}"
        return
    for line in lines(block):
        ended = sandbox.run(line)
        if ended is None:
            continue
        if ended.returncode != line.code:
            said = "\n".join([*ended.stdout.splitlines()[-5:], *ended.stderr.splitlines()[-15:]])
            yield f"{line.place}: exit {ended.returncode}, not {line.code}\n{line.text}{said}"
        if "Traceback" in ended.stderr:
            yield f"{line.place}: a traceback\n{line.text}{ended.stderr}"
