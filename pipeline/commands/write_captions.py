"""write-captions: captions and prompts by an LLM, each paid once, into a file that extract-features reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.commands import common
from pipeline.commands.completion import FOLDER, presets

MAX_FAILURES_SHOWN = 20


@common.command("write-captions", presets_of="corpora")
@click.argument("config", shell_complete=presets("corpora"))
@click.option("--out", type=FOLDER, help="The folder of the captions.  [default: captions/NAME]")
@common.audio_root_option
@common.overrides_option("pipeline.data.captions.llm.config:WriteConfig")
@click.option("--dry-run", is_flag=True, help="Print how many prompts and about how many tokens; send no request.")
@common.plugin_option
def main(config: str, out: Path | None, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Have an LLM write the captions of a corpus, through any OpenAI-compatible endpoint.

    \b
    write-captions msp_podcast --audio-root /data/MSP-PODCAST -o llm.model=o1 --dry-run
    write-captions msp_podcast --audio-root /data/MSP-PODCAST -o llm.model=o1 --out captions/msp
    write-captions my/manifest.csv -o llm.base_url=http://127.0.0.1:8080/v1 -o llm.model=mine
    extract-features msp_podcast --audio-root /data/MSP-PODCAST -o 'captions.files=[captions/msp/captions.jsonl]'

    CONFIG is a preset ({presets}), a YAML file or a manifest (.csv, .jsonl).
    The key is read from the environment (OPENAI_API_KEY, or the variable that llm.key_env names) and never written.
    Running it again resumes: answered prompts are not sent (and billed) again. Exit 1: some prompts have no usable
    answer.
    """
    from pipeline.core.errors import EmotionRankError
    from pipeline.data.captions.llm.write import plan_write_captions, write_captions

    folder = out or Path("captions") / Path(config).stem
    if dry_run:
        plan = plan_write_captions(config, out=folder, **options)
        common.print_result(plan, common.as_lines(plan), as_json)
        return
    result = write_captions(config, out=folder, **options)
    common.print_result(result, _table(result), as_json)
    if result["failures"]:
        raise EmotionRankError(
            result["captions"],
            f"{len(result['failures'])} of {result['prompts']} prompts have no caption",
            "a caption for every prompt",
            "Run it again to resend unanswered prompts; raise -o writing.attempts for refused answers.",
        )


def _table(result: dict[str, Any]) -> str:
    lines = [f"{result['captions']}: {result['answered']:,} of {result['prompts']:,} prompts answered"]
    lines += [f"  {count:,} answers refused: {problem}" for problem, count in result["refused_answers"].items()]
    failures = [f"  failed: {name}: {reason}" for name, reason in result["failures"].items()]
    lines += failures[:MAX_FAILURES_SHOWN]
    if len(failures) > MAX_FAILURES_SHOWN:
        lines.append(f"  ... and {len(failures) - MAX_FAILURES_SHOWN} more")
    return "\n".join(lines)
