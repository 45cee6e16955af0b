"""The table of the measures of one GPU, for gpu.py."""

from typing import Any

LESS_IS_BETTER = ("ms", "s", "MB")
Values = dict[str, dict[str, Any]]


def shown(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:,.4g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def ratio_of(value: dict[str, Any], unit: str) -> float | None:
    """Ours against the peer's; above 1 is faster, or less memory."""
    if not value.get("peer") or not value.get("ours"):
        return None
    return value["peer"] / value["ours"] if unit in LESS_IS_BETTER else value["ours"] / value["peer"]


def reaches(value: dict[str, Any], measure: dict[str, Any]) -> bool | None:
    """Whether a value reaches the target; None if it has none, or what it needs is not known."""
    if not measure.get("target"):
        return None
    ((unit, target),) = measure["target"].items()
    if unit in LESS_IS_BETTER:
        return value["ours"] <= target
    got = {"x": ratio_of(value, measure["unit"]), "MFU": value.get("share")}.get(unit, value["ours"])
    return None if got is None else got >= target


def mfu_of(value: dict[str, Any]) -> str:
    """Share of the bound that is reached; where memory is the bound, of the speed of a copy."""
    if "share" not in value:
        return "-"
    return f"{value['share']:.0f} %" + " of the copy" * (value["of"] == "memory")


def target_of(measure: dict[str, Any]) -> str:
    if not measure.get("target"):
        return "-"
    ((unit, target),) = measure["target"].items()
    if unit in ("x", "MFU"):
        return f">= {target:g}x" if unit == "x" else f"MFU >= {target:g} %"
    return f"{'<=' if unit in LESS_IS_BETTER else '>='} {shown(target, unit)}"


def table(parts: dict[str, Any], measures: dict[str, Any], values: Values) -> str:
    """One row for each measure."""
    head = ["measure", "peer", "ours", "ours against the peer", "target", "bound", "MFU", "`python benchmarks/...`"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, measure in measures.items():
        value, unit = values.get(name, {}), measure["unit"]
        command = f"`{parts[measure['part']]['command']}`" if measure.get("part") else "-"
        if "ours" not in value:
            row = [
                measure["text"],
                "-",
                value.get("failed", "not measured"),
                "-",
                target_of(measure),
                "-",
                "-",
                command,
            ]
            lines.append("| " + " | ".join(row) + " |")
            continue
        ours = shown(value["ours"], unit)
        ours = f"**{ours}**" if reaches(value, measure) is False else ours
        by, ratio = value.get("peer_by", ""), ratio_of(value, unit)
        peer = f"{by.split(' bfloat16')[0]} {shown(value['peer'], unit)}" if by else "-"
        row = [measure["text"], peer, ours + (f" ({value['marked']})" if value.get("marked") else ""),
               "-" if ratio is None else f"{ratio:.2f}x", target_of(measure), shown(value.get("bound"), unit),
               mfu_of(value), command]  # fmt: skip
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)
