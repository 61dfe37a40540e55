"""Sequences side by side without padding, as the networks take them.

All their tokens stand in one row of N, and whatever works token by token (every matrix, norm and activation) computes
on those alone. Only attention puts them into rows of their own, in groups of like length, where padding costs little. A
sequence may have branches, which see it and themselves: so a prompt is computed once for all of its completions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_FILL = 0.7  # a row that fills less of its group's width begins a new group


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Sequences that attention takes together, and their branches."""

    rows: int  # sequences
    width: int  # of the longest, tokens
    branches: int  # of each sequence; 0 for none
    length: int  # of the longest branch, tokens
    mask: Tensor | None  # (rows * branches, 1, length, width + length) bool, what branches see; None without branches
    ages: Tensor | None  # the same shape, how many tokens before a branch's token each of them stands

    @property
    def slots(self):
        """(places of the sequences, places of their branches)."""
        return self.rows * self.width, self.rows * self.branches * self.length

    def masks(self, window, device):
        """What (sequences, their branches) see where a token sees `window` tokens, itself included; 0 is all.

        None for sequences that see all that stands before them.
        """
        if not window:
            return None, self.mask
        order = torch.arange(self.width)
        own = None
        if self.width > window:
            age = order[:, None] - order
            own = ((age >= 0) & (age < window)).to(device)
        return own, self.mask if self.mask is None else self.mask & (self.ages < window)


class Layout:
    """Where the tokens of some sequences stand. Made on the host: nothing here waits for a device."""

    def __init__(self, lengths: Sequence[int], branches: Sequence[Sequence[int]] = (), *, device="cpu"):
        """lengths: tokens of each sequence, at least 1. branches: for each sequence, tokens of each of its branches.

        In the flat order a sequence is followed by its branches. A branch's positions go on where its sequence ends.
        """
        branches = branches or [()] * len(lengths)
        self.starts, self.branch_starts = [], []  # first place of each sequence; of each of its branches
        place = 0
        positions = []
        for length, tails in zip(lengths, branches, strict=True):
            self.starts.append(place)
            positions.append(torch.arange(length))
            place += length
            self.branch_starts.append([])
            for tail in tails:
                self.branch_starts[-1].append(place)
                positions.append(torch.arange(length, length + tail))
                place += tail
        self.tokens = place
        slots, groups = [], []
        for members in self._grouped(lengths, branches):
            group, taken = self._lay(members, lengths, branches, device)
            groups.append(group)
            slots += taken
        slots = torch.cat(slots)
        real = slots >= 0
        back = torch.empty(place, dtype=torch.long)
        back[slots[real]] = torch.arange(len(slots))[real]
        positions = torch.cat(positions)
        slots = slots.clamp(min=0)  # padding copies the first token; nobody looks at it
        self.groups = groups
        self.positions = positions.to(device, non_blocking=True)  # (N,)
        self.slots = slots.to(device, non_blocking=True)  # (M,) the token in each place of the groups, in turn
        self.slot_positions = positions[slots].to(device, non_blocking=True)  # (M,)
        self.back = back.to(device, non_blocking=True)  # (N,) the place of each token

    @staticmethod
    def _grouped(lengths, branches):
        """Lists of sequences with the same number of branches and of like length."""

        def key(index):
            return len(branches[index]), max(branches[index], default=lengths[index]), lengths[index]

        found, first = [], None
        for index in sorted(range(len(lengths)), key=key, reverse=True):
            here = key(index)
            if first is None or here[0] != first[0] or here[1] < LEAST_FILL * first[1]:
                found.append([])
                first = here
            found[-1].append(index)
        return found

    def _lay(self, members, lengths, branches, device):
        """(Group, [tokens in its places]): -1 where there is none."""
        count = len(branches[members[0]])
        own = torch.tensor([lengths[i] for i in members])
        width = int(own.max())
        slots = [_rows([self.starts[i] for i in members], own, width)]
        length, mask, ages = 0, None, None
        if count:
            tails = torch.tensor([tail for i in members for tail in branches[i]])
            length = int(tails.max())
            slots.append(_rows([start for i in members for start in self.branch_starts[i]], tails, length))
            order = torch.arange(length)
            columns = torch.arange(width)
            trunk = (columns < own[:, None])[:, None].expand(-1, length, -1)
            tail = (order[:, None] >= order).expand(len(members), -1, -1)
            mask = torch.cat([trunk, tail], dim=2).repeat_interleave(count, dim=0)[:, None]
            before = (own[:, None] - columns)[:, None] + order[:, None]
            within = (order[:, None] - order).expand(len(members), -1, -1)
            ages = torch.cat([before, within], dim=2).repeat_interleave(count, dim=0)[:, None]
            mask, ages = mask.to(device), ages.to(device)
        return Group(rows=len(members), width=width, branches=count, length=length, mask=mask, ages=ages), slots

    def attend(self, query, key, value, attend, *, window=0):
        """(M, H * S) from query (M, H, S) and key, value (M, G, S) in the places of the groups.

        attend(query, key, value, mask, causal): attention of rows, (B, heads, T, S) each.
        window: how many tokens a token sees, itself included; 0 is all.
        """
        sizes = [size for group in self.groups for size in group.slots if size]
        parts = zip(*(x.split(sizes) for x in (query, key, value)), strict=True)
        found = []
        for group in self.groups:
            mask, branch_mask = group.masks(window, query.device)
            q, k, v = (x.unflatten(0, (group.rows, group.width)).transpose(1, 2) for x in next(parts))
            found.append(_flat(attend(q, k, v, mask, mask is None)))
            if group.branches:
                rows = group.rows * group.branches
                q, own_k, own_v = (x.unflatten(0, (rows, group.length)).transpose(1, 2) for x in next(parts))
                keys = torch.cat([_repeated(k, group.branches), own_k], dim=2)
                values = torch.cat([_repeated(v, group.branches), own_v], dim=2)
                found.append(_flat(attend(q, keys, values, branch_mask, False)))
        return torch.cat(found) if len(found) > 1 else found[0]

    def ends(self):
        """The last place of every sequence without branches and of every branch, in order."""
        found = []
        bounds = [*self.starts[1:], self.tokens]
        for tails, bound in zip(self.branch_starts, bounds, strict=True):
            found += [start - 1 for start in [*tails[1:], bound]]
        return torch.tensor(found, device=self.positions.device)


def decisions(layout, prompt_lengths, completion_lengths):
    """(A,) places where the tokens of completions are decided, each one place before its own token.

    prompt_lengths, completion_lengths: of each sequence of the layout, prompt and completion in one.
    """
    places = [
        torch.arange(start + prompt - 1, start + prompt - 1 + completion)
        for start, prompt, completion in zip(layout.starts, prompt_lengths, completion_lengths, strict=True)
    ]
    return torch.cat(places).to(layout.positions.device, non_blocking=True)


def flatten(rows, *, device="cpu"):
    """(N,) long, the ids of lists one after another."""
    return torch.tensor([token for row in rows for token in row], dtype=torch.long).to(device, non_blocking=True)


def _rows(starts, lengths, width):
    order = torch.arange(width)
    places = torch.tensor(starts)[:, None] + order
    return places.masked_fill(order >= lengths[:, None], -1).flatten()


def _repeated(x, copies):
    """(B, ...) -> (B * copies, ...), each row `copies` times; unlike repeat_interleave its gradient is one sum."""
    return x.unsqueeze(1).expand(-1, copies, *x.shape[1:]).flatten(0, 1)


def _flat(x):
    """(B, H, T, S) -> (B * T, H * S)"""
    return x.transpose(1, 2).flatten(2).flatten(0, 1)
