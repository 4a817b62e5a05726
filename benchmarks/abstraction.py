"""Is free text read right? python -m benchmarks.abstraction [--label NAME] [--abstractor PATH_OR_HUB_ID --num N]

Every paraphrase and every whole report written by hand is read; each field of the findings is compared with what the
text truly says, or the nearest of what it may be read as. A lesion is matched to one that was read by organ and site,
its size counts as right within 1 mm; a report counts as exact when every field is right. `page_ms` is the processor
time for one page of report text (3,000 characters).
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.full_reports import FULL_PARTS, FullReport, load_full_reports
from benchmarks.paraphrases import PARTS, load_paraphrases
from benchmarks.record import save
from guidegen_data.anatomy import TORSO, Anatomy
from guidegen_data.errors import GuideGenError
from guidegen_data.models.language_model import load_abstractor
from guidegen_data.reports.abstraction import abstract_report
from guidegen_data.reports.findings import Findings, Lesion

_SCAN_FIELDS = ("region", "phase", "sex", "age_decade", "habitus")
_PAGE_CHARACTERS = 3000
_HELD_OUT = (PARTS[-1], FULL_PARTS[-1])


def compare(truth: Findings, read: Findings | None) -> Counter[str]:
    """Counts 'FIELD' of what was to be read, 'FIELD right' of what was, 'extra ...' of what the text does not say."""
    counts: Counter[str] = Counter({"reports": 1, "errors": int(read is None)})
    exact = read is not None
    for name in _SCAN_FIELDS:
        right = read is not None and getattr(read, name) == getattr(truth, name)
        stated = getattr(truth, name) not in ("", None)
        told = {f"{name} stated": int(stated), f"{name} stated right": int(right and stated)}
        counts.update({name: 1, f"{name} right": int(right), **told})
        exact &= right
    said = {item for item in truth.organs.items() if item[1] != "normal"}
    found = {item for item in read.organs.items() if item[1] != "normal"} if read else set()
    counts.update({"status": len(said), "status right": len(said & found), "extra statuses": len(found - said)})
    for _, status in said:
        counts[f"status {status}"] += 1
    for _, status in said & found:
        counts[f"status {status} right"] += 1
    pairs, extra = _matched(truth.lesions, read.lesions if read else ())
    counts["extra lesions"] += extra
    for lesion, other in pairs:
        ok = {
            "lesion organ": other is not None,
            "lesion site": other is not None and other.site == lesion.site,
            "lesion size": other is not None and abs(other.size_mm - lesion.size_mm) <= 1,
            "lesion attenuation": other is not None and other.attenuation == lesion.attenuation,
        }
        for name, right in ok.items():
            counts.update({name: 1, f"{name} right": int(right)})
            exact &= right
    counts["exact"] += int(exact and said == found and not extra)
    return counts


def _matched(truth: Sequence[Lesion], read: Sequence[Lesion]) -> tuple[list[tuple[Lesion, Lesion | None]], int]:
    """Each true lesion with the closest one read in its organ, and how many that were read are left over."""
    free, pairs = list(read), []
    for lesion in truth:
        same = [o for o in free if o.organ == lesion.organ]
        best = min(same, key=lambda o: (o.site != lesion.site, abs(o.size_mm - lesion.size_mm)), default=None)
        if best is not None:
            free.remove(best)
        pairs.append((lesion, best))
    return pairs, len(free)


def figures(counts: Counter[str]) -> dict[str, Any]:
    """Shares with the N each is of."""
    done: dict[str, Any] = {"reports": counts["reports"], "errors": counts["errors"], "exact": counts["exact"]}
    done["exact_share"] = round(counts["exact"] / max(counts["reports"], 1), 3)
    for name in sorted(n for n in counts if f"{n} right" in counts):
        done[name] = {"N": counts[name], "accuracy": round(counts[f"{name} right"] / max(counts[name], 1), 3)}
    done |= {"extra_statuses": counts["extra statuses"], "extra_lesions": counts["extra lesions"]}
    return done


def nearest(truths: Sequence[Findings], read: Findings | None) -> tuple[Findings, Counter[str]]:
    """Of what a text may be read as, what was read comes nearest to, and its counts."""

    def right(counts: Counter[str]) -> tuple[int, int]:
        extra = counts["extra statuses"] + counts["extra lesions"]
        return counts["exact"], sum(n for name, n in counts.items() if name.endswith(" right")) - extra

    return max(((truth, compare(truth, read)) for truth in truths), key=lambda pair: right(pair[1]))


def load(part: str) -> list[FullReport]:
    """The texts of one part, whichever file holds it."""
    if part in FULL_PARTS:
        return load_full_reports(part)
    return [FullReport(text, TORSO, (truth,)) for text, truth in load_paraphrases(part)]


def read_all(part: str, read: Callable[[str, Anatomy], Findings], num: int | None, show: bool) -> dict[str, Any]:
    """Figures over one part of the texts, the first `num` of them; `show` prints what was not read right."""
    counts: Counter[str] = Counter()
    for report in load(part)[:num]:
        try:
            found = read(report.text, report.anatomy)
        except GuideGenError as error:
            found, reason = None, str(error)
        truth, one = nearest(report.truths, found)
        counts.update(one)
        if show and not one["exact"]:
            print(report.text, "\n  SAYS", truth.prompt(), "\n  READ", found.prompt() if found else reason)
    return figures(counts)


def page_ms() -> float:
    """Processor time to read one page of the paraphrases joined, best of five."""
    page = "\n".join(text for text, _ in load_paraphrases("first"))[:_PAGE_CHARACTERS]
    times = []
    for _ in range(5):
        start = time.process_time()
        # Snippets of several patients on one page contradict each other, which is found when all is read.
        with contextlib.suppress(GuideGenError):
            abstract_report(page)
        times.append(time.process_time() - start)
    return round(1000 * min(times), 1)


def main() -> None:
    """Measures and writes results/abstraction[_LABEL].json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label", default="", help="ending of the results file's name")
    parser.add_argument(
        "--show",
        action="store_true",
        help="print what was not read right, but for the parts that nothing is mended on",
    )
    parser.add_argument("--abstractor", default="", help="chat model that reads instead of the rules")
    parser.add_argument("--num", type=int, help="read only so many of each part")
    args = parser.parse_args()
    abstractor = load_abstractor(args.abstractor)

    def read(text: str, anatomy: Anatomy) -> Findings:
        return abstractor(text, anatomy).findings

    done: dict[str, Any] = {}
    for part in (*PARTS, *FULL_PARTS):
        done[part] = read_all(part, read, args.num, args.show and part not in _HELD_OUT)
    done |= {"page_characters": _PAGE_CHARACTERS, "page_ms": page_ms()}
    save("_".join(filter(None, ("abstraction", args.label))), done)


if __name__ == "__main__":
    main()
