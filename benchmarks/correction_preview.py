"""How well the first sight of a correction agrees with what it becomes, on the clicked slice.

    python benchmarks/correction_preview.py --data ../shared/data --limit 12

A click opens each object, and each correction is a click where the answer is most wrong; volseg.evaluation.placement
says where exactly. Dice on the slice through the click: of the preview and the finished answer, and of the answer
before and the finished one. Seconds are of the model alone, by the clock. Prints a line a correction, then JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from volseg.evaluation.cases import find_cases, limited
from volseg.evaluation.placement import acquisition_axis, centre_click, error_click, key_slice
from volseg.evaluation.reference import read_case_image, read_reference
from volseg.evaluation.validation import validation_cases
from volseg.models.registry import load_model
from volseg.prompts import PromptSet


def dice(one, other):
    voxels = one.sum() + other.sum()
    return 1.0 if voxels == 0 else float(2 * (one & other).sum() / voxels)


def corrections(model, case, count):
    """A row for each correction of a case's first object."""
    image, truth = read_case_image(case), read_reference(case).objects[0].truth
    said = [centre_click(truth, key_slice(truth))]
    with model.encode(image) as encoding:
        answer = model.segment(encoding, PromptSet.of(truth.grid, said)).masks[0]
        for number in range(count):
            click = error_click(answer, truth)
            if click is None:
                return
            said.append(click)
            seen = []
            start = time.perf_counter()

            def partial(mask, seen=seen, start=start):
                seen.append((mask, time.perf_counter() - start))

            done = model.segment(encoding, PromptSet.of(truth.grid, said), partial=partial).masks[0]
            row = {"case": case.case_id, "correction": number + 1, "finished_s": time.perf_counter() - start}
            axis = acquisition_axis(truth.grid)
            before, after = (one.full().take(round(click.position[axis]), axis) for one in (answer, done))
            row["before"] = dice(before, after)
            if seen:
                preview = seen[0][0].full().take(round(click.position[axis]), axis)
                row |= {"preview": dice(preview, after), "preview_s": seen[0][1]}
            yield row
            answer = done


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", type=Path, help="folder of the training configuration's paths")
    where.add_argument("--cases", type=Path, help="cases as volseg evaluate takes them")
    parser.add_argument("--limit", type=int, help="cases, taken in turn from every group")
    parser.add_argument("--corrections", type=int, default=3, help="of each case (3)")
    parser.add_argument("--model", default="sam2-nano")
    chosen = parser.parse_args()
    every = find_cases(chosen.cases) if chosen.cases else validation_cases("sam2-nano", chosen.data)
    model, rows = load_model(chosen.model, device="cpu"), []
    for case in limited(every, chosen.limit):
        for row in corrections(model, case, chosen.corrections):
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    shown = [row for row in rows if "preview" in row]
    found = {"corrections": len(rows), "with a preview": len(shown)}
    for name in ("preview", "before", "preview_s", "finished_s"):
        values = np.array([row[name] for row in shown])
        found[name] = {"mean": round(values.mean(), 3), "median": round(float(np.median(values)), 3)}
        found[name] |= {"p10": round(float(np.quantile(values, 0.1)), 3), "max": round(values.max(), 3)}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
