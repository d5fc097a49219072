"""extract-features: the frozen encoders run once, into STORES."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from pipeline.commands import common
from pipeline.commands.completion import FOLDER, presets
from pipeline.core.presets import preset_names

log = logging.getLogger(__name__)

_ENGINE = "Encode on this machine, or on a Ray cluster."
_PRECISION = "Numerical precision of the speech encoder.  [default: bfloat16 for a WavLM on CUDA, else float32]"
_BATCH_SECONDS = "Seconds of audio in one batch.  [default: one clip on a CPU, 160 on CUDA]"
_NUM_WORKERS = "Number of threads; it does not change the vectors.  [default: one per core]"
_VERIFY = "Check every byte of the stores; --verify=deep also compares all audio files with those that were encoded."
_DIGEST = "Print statistics and checksums per split, to compare stores between labs."
_LIMIT = "Encode only about this many utterances now, of all lengths; the rest stay pending."
_STRICT = (
    "Exit with an error if a speaker, sentence or recording is in two splits, if a row failed (exit 3), or if "
    "--dry-run does not find an encoder (exit 2)."
)
_ENCODERS_HELP = f"A preset of configs/encoders: {', '.join(preset_names('encoders'))}."
_ENCODERS = presets("encoders", or_file=False)
_ENGINES = click.Choice(["threads", "ray"])
_PRECISIONS = click.Choice(["auto", "float32", "bfloat16", "float16"])


@common.command("extract-features", presets_of="corpora")
@click.argument("config", shell_complete=presets("corpora"))
@click.option("--out", type=FOLDER, help="The folder of the stores.  [default: stores/NAME]")
@common.audio_root_option
@click.option("--encoders", help=_ENCODERS_HELP, shell_complete=_ENCODERS)
@common.overrides_option("pipeline.core.config:ExtractConfig")
@common.device_option
@click.option("--engine", type=_ENGINES, default="threads", show_default=True, help=_ENGINE)
@common.everyday_option("--precision", "audio.precision={}", type=_PRECISIONS, help=_PRECISION)
@common.everyday_option("--batch-seconds", "audio.batch_seconds={}", metavar="SECONDS|auto", help=_BATCH_SECONDS)
@click.option("--num-workers", type=click.IntRange(min=1), help=_NUM_WORKERS)
@click.option("--limit", type=click.IntRange(min=1), help=_LIMIT)
@click.option("--retry-failed", is_flag=True, help="Retry failed rows.")
@click.option("--strict", is_flag=True, help=_STRICT)
@common.fresh_option
@click.option("--dry-run", is_flag=True, help="Read and check everything, print the plan, write nothing.")
@click.option("--status", is_flag=True, help="Count done, failed and pending rows, and name the failed ones.")
@click.option("--verify", is_flag=False, flag_value="stores", type=click.Choice(["stores", "deep"]), help=_VERIFY)
@click.option("--digest", is_flag=True, help=_DIGEST)
@common.plugin_option
def main(
    config: str, out: Path | None, audio_root: Path | None, overrides: tuple[str, ...], strict: bool, dry_run: bool,
    status: bool, verify: str | None, digest: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Run the frozen encoders once over a corpus and its captions.

    \b
    extract-features msp_podcast --audio-root /data/MSP-PODCAST --out stores/msp
    extract-features my/manifest.csv --out stores/mine           (embedded encoders)
    extract-features my/manifest.csv --encoders paper --out stores/mine-paper
    extract-features my/manifest.csv --plugin my_encoder.py -o audio.encoder=mine --out stores/mine-own
    extract-features msp_podcast --out stores/msp --status

    CONFIG is a preset ({presets}), a YAML file or a manifest (.csv, .jsonl).
    Running it again resumes.
    """
    folder = out or Path("stores") / Path(config).stem
    if status or verify or digest:
        _inspect(folder, verify, audio_root, digest=digest, as_json=as_json)
        return
    from pipeline.extraction.extract import extract
    from pipeline.extraction.plan import plan_extraction
    from pipeline.extraction.status import status_table

    shared: dict[str, Any] = {"out": folder, "audio_root": audio_root, "overrides": overrides, "strict": strict}
    if dry_run:
        plan = plan_extraction(config, **shared, encoders=options["encoders"], device=options["device"])
        common.print_result(plan, common.as_lines(plan), as_json)
        _judge_plan(plan, strict)
        return
    result = extract(config, **shared, **options)
    common.print_result(result, status_table(result), as_json)
    _judge(result, folder, strict)


def _judge_plan(plan: dict[str, Any], strict: bool) -> None:
    """Say last which encoders are not at hand. Raises MissingEncoder for `strict`."""
    from pipeline.core.errors import MissingEncoder

    missing = plan["missing_encoders"]
    for each in missing:
        log.warning(f"WARNING: an encoder is not at hand, all else was checked: {each}")
    if strict and missing:
        found = f"{len(missing)} of its encoders not at hand"
        raise MissingEncoder(plan["stores"], found, "all of them (--strict)", "See the lines above.")


def _judge(result: dict[str, Any], folder: Path, strict: bool) -> None:
    """Say last what nobody should miss. Raises EmotionRankError where no utterance was encoded, and for `strict`."""
    from pipeline.core.errors import EmotionRankError, QuarantinedRows
    from pipeline.extraction.status import audio_leaks, failure_warning

    warning = failure_warning(result)
    if warning and not result["audio"]["done"]:
        raise EmotionRankError(folder, warning, "at least one encoded", "Correct it, then run with --retry-failed.")
    if warning:
        log.warning(f"WARNING: {warning}")
    failures = [each for each in result["failures"] if each["store"] != "words"]  # nothing said is no failure
    refused = {"failed rows": len(failures), "recordings in more than one split": audio_leaks(result)}
    for what, count in refused.items():
        if strict and count:
            raise QuarantinedRows(folder, f"{count} {what}", "none (--strict)", "See the list above.")


def _inspect(folder: Path, verify: str | None, audio_root: Path | None, *, digest: bool, as_json: bool) -> None:
    """--status, --digest and --verify."""
    from pipeline.extraction import status, store_digest

    result = store_digest.digest(folder) if digest else status.status_of(folder)
    text = store_digest.digest_table(result) if digest else status.status_table(result)
    if verify:
        result["verified"] = status.verify(folder)
        text += f"\n  verified: {result['verified']:,} rows and every header match their checksums"
    if verify == "deep":
        result["sources_verified"] = status.verify_sources(folder, audio_root)
        text += f"\n  verified: {result['sources_verified']:,} audio files and texts are those that were encoded"
    common.print_result(result, text, as_json)
