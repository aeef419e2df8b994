"""GPTQ: what rounding one column of a weight spoils, the columns after it make up for.

In: rows of W, the inputs' second moments. Out: integers and scales.

The error that counts is |(W - Q) x|^2 over the calibration's inputs, which is tr (W - Q) H (W -
Q)^T with H = mean of x x^T. Here is the factor of H^-1 that it takes; extensions/kernels/gptq.h
rounds.

Invariant: a row of Q depends on its row of W and on H alone. So a weight may come in any pieces of
rows.
"""

from __future__ import annotations

import numpy as np
import torch

from mpsplit.errors import ConvertError
from mpsplit.native.cpp import kernels
from mpsplit.package.stored.quantisation import Quantisation

DAMPING = 0.01  # of the mean of the diagonal of H is added to it
TRIES = 4  # each with ten times the damping before


def factor(hessian: np.ndarray) -> np.ndarray:
    """U [k, k] float32 with H^-1 = U^T U for the damped H [k, k]; inputs that are always 0 stand
    alone."""
    diagonal = hessian.diagonal()
    mean = float(diagonal.mean(dtype=np.float64))
    if not np.isfinite(mean):
        raise ConvertError(
            "the inputs of calibration are not finite: the model overflows on this text; use another one"
        )
    for attempt in range(TRIES):
        h = torch.from_numpy(hessian.astype(np.float32))
        h.diagonal().add_(max(mean, 1e-30) * DAMPING * 10**attempt)
        h.diagonal()[torch.from_numpy(diagonal == 0)] = max(mean, 1e-30)
        # with the order of the columns reversed, L L^T becomes R R^T with R upper triangular, and U
        # is R^-1
        lower, failed = torch.linalg.cholesky_ex(h.flip(0, 1))
        if not failed:
            del h
            upper, u = lower.flip(0, 1), torch.eye(len(lower))
            del lower
            return torch.linalg.solve_triangular(upper, u, upper=True, out=u).numpy()
    raise ConvertError(
        f"the second moments of {len(hessian)} inputs have no Cholesky factor; calibrate with a longer or more varied"
        " text"
    )


def gptq(rows: np.ndarray, u: np.ndarray, how: Quantisation, scales: str = "mse") -> tuple[np.ndarray, np.ndarray]:
    """rows [n, k] float32 -> values int8 [n, k], scales float32 [n, k / block]; a block's scale is
    of its columns as they came to be."""
    n, k = rows.shape
    assert u.shape == (k, k) and k % how.block == 0, f"{rows.shape} rows, factor {u.shape}, block {how.block}"
    rows, u = np.ascontiguousarray(rows, np.float32), np.ascontiguousarray(u, np.float32)
    return kernels().gptq(rows, u, how.bits, how.block, scales, threads=torch.get_num_threads())
