"""Files in and out, one module a format. Every writer yields text, so that an export of any size streams."""

from annotation.formats import csv, demonstrations, hh_rlhf, native, prompts, trl, ultrafeedback

# name -> (function of (project, JudgmentFilter) that yields lines, file name's ending, content type)
EXPORTS = {
    "native": (native.write_rankings, "jsonl", "application/jsonl"),
    "trl": (trl.write_preferences, "jsonl", "application/jsonl"),
    "trl_plain": (trl.write_plain_preferences, "jsonl", "application/jsonl"),
    "hh_rlhf": (hh_rlhf.write_pairs, "jsonl", "application/jsonl"),
    "ultrafeedback": (ultrafeedback.write_prompts, "jsonl", "application/jsonl"),
    "csv": (csv.write_rankings, "csv", "text/csv; charset=utf-8"),
    "prompts": (prompts.write_prompts, "jsonl", "application/jsonl"),
    "demonstrations": (demonstrations.write_demonstrations, "jsonl", "application/jsonl"),
}
