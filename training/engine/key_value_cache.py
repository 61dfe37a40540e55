"""Keys and values of the tokens that a decoder has read."""

import torch


class KeyValueCache:
    """Preallocated keys and values of every layer. Row b holds `lengths[b]` tokens from column 0 on, without gaps."""

    def __init__(self, architecture, rows, columns, *, device, dtype):
        shape = (rows, architecture.n_kv_heads, columns, architecture.head_size)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(architecture.n_layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(architecture.n_layers)]
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)  # (rows,)
        self.longest = 0  # of the rows in use, known without asking the device
        self.rows = 0  # rows in use: always the first ones

    @property
    def columns(self):
        return self.keys[0].shape[2]

    def extend(self, layer, key, value, *, offset, positions):
        """Stores (b, G, T, S) new tokens of the rows from `offset` on; returns what those rows' queries may look at."""
        rows, _, length, _ = key.shape
        here = slice(offset, offset + rows)
        keys, values = self.keys[layer], self.values[layer]
        if positions is None:  # fresh rows: the new tokens are all there is
            keys[here, :, :length] = key
            values[here, :, :length] = value
            return key, value
        row = torch.arange(offset, offset + rows, device=key.device)[:, None]
        keys[row, :, positions] = key.transpose(1, 2).to(keys.dtype)
        values[row, :, positions] = value.transpose(1, 2).to(values.dtype)
        end = self.longest + length
        return keys[here, :, :end], values[here, :, :end]

    def copy_rows(self, source, target):
        """Row target[i] becomes a copy of row source[i]; both (n,) long, apart from each other."""
        for tensor in (*self.keys, *self.values):
            used = tensor[:, :, : self.longest]
            used[target] = used[source]
        self.lengths[target] = self.lengths[source]

    def fork(self, first, count, copies):
        """Replaces the last `count` rows in use, from row `first` on, by `copies` of each, side by side."""
        end = first + count * copies
        for tensor in (*self.keys, *self.values):
            used = tensor[:, :, : self.longest]
            used[first:end] = used[first : first + count].repeat_interleave(copies, dim=0)
        self.lengths[first:end] = self.lengths[first : first + count].repeat_interleave(copies)
        self.rows = end

    def shrink(self, rows):
        """Only the first `rows` rows stay in use."""
        self.rows = rows
        self.longest = int(self.lengths[:rows].max()) if rows else 0
