"""What a curated data set is: where it is from, under which licences, what it cost and what was rejected."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from models.data.curation.clip import Clip
from models.data.curation.clip_annotation import ClipResult
from models.data.curation.config import CurationConfig
from models.data.curation.split import SPLIT_NAMES, SplitName
from models.data.curation.store import Ledger, write_whole
from models.data.json_array import JsonArrayWriter


def write_data_set(
    config: CurationConfig,
    results: Sequence[ClipResult],
    splits: Mapping[str, SplitName],
    groups: Mapping[str, str],
    rejected_videos: Mapping[str, str],
    num_rejected_clips: int,
    ledger: Ledger,
) -> dict[str, Any]:
    """Writes train, validation and test (raw format), `claims.jsonl` with every verdict, and last `manifest.json`,
    which it returns. `splits` and `groups` are by clip key, `rejected_videos` reasons by path."""
    files: dict[str, Any] = {}
    for split in SPLIT_NAMES:
        mine = [result for result in results if splits[result.clip.key] == split]
        path = config.output / f"{split}.json"
        with JsonArrayWriter(path) as writer:
            for result in mine:
                for sample in result.samples:
                    writer.write(sample.to_element())
        files[split] = {
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "samples": sum(len(result.samples) for result in mine),
            "clips": sum(bool(result.samples) for result in mine),
            "groups": len({groups[result.clip.key] for result in mine if result.samples}),
            "tasks": _sorted(Counter(sample.task_type for result in mine for sample in result.samples)),
        }
    verdicts = [verdict for result in results for verdict in result.verdicts]
    lines = [json.dumps(verdict.to_element(), ensure_ascii=False) + "\n" for verdict in verdicts]
    write_whole(config.output / "claims.jsonl", "".join(lines).encode())
    undone = Counter(reason for result in results for reason in result.undone.values())
    manifest = {
        "complete": not undone,
        "config": config.model_dump(
            mode="json", exclude={"output": True, "teacher": {"base_url", "key_variable"}}
        ),
        "splits": files,
        "sources": [_source(config, index, results) for index in range(len(config.sources))],
        "cost": {
            "replies": ledger.num_replies,
            "prompt_tokens": ledger.prompt_tokens,
            "completion_tokens": ledger.completion_tokens,
            "replies_with_estimated_tokens": ledger.num_estimated,
        },
        "kept": _by_task((verdict.task, "") for verdict in verdicts if not verdict.reason),
        "rejected": {
            "videos": _sorted(Counter(rejected_videos.values())),
            "clips that cannot be cut": num_rejected_clips,
            "claims": _by_task((verdict.task, verdict.reason) for verdict in verdicts if verdict.reason),
            "lists": _by_task(key for result in results for key in result.rejected_samples.elements()),
        },
        "undone": _sorted(undone),
        "clips": [_clip(result.clip, splits, groups, config) for result in results],
    }
    write_whole(
        config.output / "manifest.json", (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
    )
    return manifest


def _source(config: CurationConfig, index: int, results: Sequence[ClipResult]) -> dict[str, Any]:
    source = config.sources[index]
    mine = [result for result in results if result.clip.source == source.name]
    return {
        "name": source.name,
        "licence": source.licence,
        "attribution": source.attribution,
        "videos": len({result.clip.video_sha256 for result in mine}),
        "clips": len(mine),
        "hours": round(sum(result.clip.duration_s for result in mine) / 3600, 4),
        "samples": sum(len(result.samples) for result in mine),
    }


def _clip(
    clip: Clip, splits: Mapping[str, SplitName], groups: Mapping[str, str], config: CurationConfig
) -> dict[str, Any]:
    return {
        "key": clip.key,
        "source": clip.source,
        "licence": next(source.licence for source in config.sources if source.name == clip.source),
        "video": clip.video,
        "video_sha256": clip.video_sha256,
        "start_s": clip.start_s,
        "end_s": clip.end_s,
        "group": groups[clip.key],
        "split": splits[clip.key],
    }


def _by_task(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {}
    for task, reason in pairs:
        counts.setdefault(task, Counter())[reason] += 1
    return {
        task: dict(reasons)[""] if set(reasons) == {""} else _sorted(reasons)
        for task, reasons in sorted(counts.items())
    }


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))
