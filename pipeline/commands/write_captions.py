"""write-captions: captions and prompts by an LLM, each paid once, into a file that extract-features reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.commands.common import guarded, json_option, listed, overrides_option, plugin_option, show
from pipeline.commands.completion import FOLDER, of_writing, presets, settings
from pipeline.commands.usage_errors import Command

_SHOWN = 20


@click.command("write-captions", cls=Command)
@click.argument("config", shell_complete=presets("corpora"))
@click.option("--out", type=FOLDER, help="The folder of the captions.  [default: captions/NAME]")
@click.option("--audio-root", type=FOLDER, help="The corpus folder on this machine.")
@overrides_option(settings(of_writing))
@click.option("--dry-run", is_flag=True, help="Say how many prompts and about how many tokens; ask nothing.")
@plugin_option
@json_option
@guarded
def main(
    config: str, out: Path | None, audio_root: Path | None, overrides: tuple[str, ...], dry_run: bool, as_json: bool
) -> None:
    """Have an LLM write the captions of a corpus, by any OpenAI-compatible endpoint.

    \b
    write-captions msp_podcast --audio-root /data/MSP-PODCAST -o llm.model=o1 --dry-run
    write-captions msp_podcast --audio-root /data/MSP-PODCAST -o llm.model=o1 --out captions/msp
    write-captions my/manifest.csv -o llm.base_url=http://127.0.0.1:8080/v1 -o llm.model=mine
    extract-features msp_podcast --audio-root /data/MSP-PODCAST -o 'captions.files=[captions/msp/captions.jsonl]'

    CONFIG is a preset (msp_podcast, iemocap, ravdess, emodb, cremad, tess), a YAML file or a manifest (.csv, .jsonl).
    The key is read from the environment (OPENAI_API_KEY, or the variable that llm.key_env names) and never written.
    Doing it again goes on where it stopped; no prompt is paid twice. Exit 1: some prompts got no usable answer.
    """
    from pipeline.core.errors import EmotionRankError
    from pipeline.data.captions.llm.write import plan_write_captions, write_captions

    folder = out or Path("captions") / Path(config).stem
    if dry_run:
        plan = plan_write_captions(config, out=folder, audio_root=audio_root, overrides=overrides)
        show(plan, listed(plan), as_json)
        return
    result = write_captions(config, out=folder, audio_root=audio_root, overrides=overrides)
    show(result, _table(result), as_json)
    if result["failures"]:
        raise EmotionRankError(
            result["captions"],
            f"{len(result['failures'])} of {result['prompts']} prompts have no caption",
            "a caption for every prompt",
            "Run it again for those without an answer, or with more -o writing.attempts for those refused.",
        )


def _table(result: dict[str, Any]) -> str:
    lines = [f"{result['captions']}: {result['answered']:,} of {result['prompts']:,} prompts answered"]
    lines += [f"  {count:,} answers refused: {problem}" for problem, count in result["refused_answers"].items()]
    failures = list(result["failures"].items())
    lines += [f"  failed: {name}: {why}" for name, why in failures[:_SHOWN]]
    lines += [f"  ... and {len(failures) - _SHOWN} more"] if len(failures) > _SHOWN else []
    return "\n".join(lines)
