"""Cleaning of documents before pretraining; every document that is changed or left out is counted.

In this order: Unicode normalisation (and control characters out), length and character filters, exact duplicates, near
duplicates. Of documents that are alike the first stays. Conversations are compared as text and kept as they are.

Near duplicates share most of their runs of five words. MinHash (128 hashes in bands, arXiv:2107.06499 section 4.2)
finds candidates, and their true Jaccard similarity decides, so none is dropped by chance.
"""

import hashlib
import json
import unicodedata
from collections import Counter

import numpy as np

from training.engine import data

SHINGLE_WORDS = 5
HASHES, BAND_ROWS = 128, 4  # 32 bands of 4: two documents of similarity .8 meet in one with a chance of .9999999
CONTROLS = {code: None for code in range(32) if chr(code) not in "\n\t"} | {127: None}
REASONS = ("too_short", "too_long", "few_letters", "exact_duplicates", "near_duplicates")


def clean(documents, settings):
    """(documents that stay, Counter over `normalised` and REASONS). documents: texts or lists of messages.

    settings: sections.CleaningConfig.
    """
    counts = Counter(dict.fromkeys(("normalised", *REASONS), 0))
    kept, seen = [], set()
    near = NearDuplicates(settings.near_duplicates) if settings.near_duplicates else None
    for document in documents:
        if isinstance(document, str):
            text = normalise(document, settings.unicode)
            counts["normalised"] += text != document
            document = text
        else:
            text = json.dumps(document, sort_keys=True)
        reason = fault(text, settings) if isinstance(document, str) else ""
        digest = hashlib.blake2b(text.strip().encode(), digest_size=16).digest()
        if not reason and settings.exact_duplicates and digest in seen:
            reason = "exact_duplicates"
        if not reason and near and near.knows(text):
            reason = "near_duplicates"
        if reason:
            counts[reason] += 1
            continue
        seen.add(digest)
        kept.append(document)
    return kept, counts


def load_clean(config):
    """(documents of inputs.documents that stay, Counter, a sentence on what was done). Raises DataError."""
    documents = data.load_documents(config.inputs.documents)
    kept, counts = clean(documents, config.pretrain.cleaning)
    if not kept:
        raise data.DataError(
            f"{config.inputs.documents}: the filters of pretrain.cleaning leave none of {len(documents)} documents; "
            "loosen them."
        )
    return kept, counts, describe(counts, len(documents))


def normalise(text, form):
    """The text in a Unicode form (NFC, NFKC; none leaves it alone), its line ends as newlines, without controls."""
    if form == "none":
        return text
    return unicodedata.normalize(form, text.replace("\r\n", "\n").replace("\r", "\n")).translate(CONTROLS)


def fault(text, settings):
    """Why a filter leaves the text out, or ''."""
    if len(text) < settings.min_characters:
        return "too_short"
    if settings.max_characters and len(text) > settings.max_characters:
        return "too_long"
    if settings.min_letters:
        solid = [character for character in text if not character.isspace()]
        if sum(map(str.isalpha, solid)) < settings.min_letters * len(solid):
            return "few_letters"
    return ""


class NearDuplicates:
    """Remembers texts, and knows one that is much like an earlier one."""

    def __init__(self, similarity):
        """similarity: of the sets of shingles (Jaccard), from which on two texts count as the same."""
        self.similarity = similarity
        self._shingles, self._buckets = [], {}
        random = np.random.default_rng(0)
        self._factors = random.integers(0, 2**63, HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._terms = random.integers(0, 2**63, HASHES, dtype=np.uint64)

    def knows(self, text):
        """Whether a text like this one was seen; a new one is remembered."""
        mine = shingles(text)
        bands = self._bands(mine)
        met = {number for band in bands for number in self._buckets.get(band, ())}
        if any(jaccard(mine, self._shingles[number]) >= self.similarity for number in met):
            return True
        for band in bands:
            self._buckets.setdefault(band, []).append(len(self._shingles))
        self._shingles.append(mine)
        return False

    def _bands(self, hashes):
        # Multiply, add, and keep the upper half: a universal family; overflow is the modulus.
        spread = (hashes[:, None] * self._factors + self._terms) >> np.uint64(32)
        rows = spread.min(axis=0).reshape(-1, BAND_ROWS)
        return [(place, row.tobytes()) for place, row in enumerate(rows)]


def shingles(text):
    """(N,) sorted uint64 hashes of the different runs of SHINGLE_WORDS words; a shorter text is one run."""
    words = text.casefold().split()
    runs = {" ".join(words[i : i + SHINGLE_WORDS]) for i in range(max(len(words) - SHINGLE_WORDS + 1, 1))}
    digests = b"".join(hashlib.blake2b(run.encode(), digest_size=8).digest() for run in runs)
    return np.unique(np.frombuffer(digests, dtype=np.uint64))


def jaccard(one, other):
    """Shared over all, of two sorted arrays without repeats."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def describe(counts, total):
    """One sentence on what was done, or '' where nothing was."""
    if not any(counts.values()):
        return ""
    dropped = ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in REASONS if counts[name]) or "none"
    return f"Cleaning left out of {total} documents: {dropped}; it normalised {counts['normalised']}."
