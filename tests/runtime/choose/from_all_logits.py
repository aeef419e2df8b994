"""Choosing as it was before ranks sent anything but whole slices: the oracle.

In: all logits, float32. Out: the token. Nothing here is shared with mpsplit/runtime/choose.
"""

import numpy as np


def log_sum_exp(x):
    return float(x.max() + np.log(np.exp(x - x.max()).sum()))


def largest(ids, logits, wanted):
    if wanted >= len(logits):
        return np.lexsort((ids, -logits))
    order = np.flatnonzero(logits >= np.partition(logits, len(logits) - wanted)[len(logits) - wanted])
    return order[np.lexsort((ids[order], -logits[order]))]


def token_of(all_logits, history, s, step, allowed=None):
    ids, logits = np.arange(len(all_logits)), all_logits.astype(np.float64)
    for token, bias in s.logit_bias:
        logits[token] += bias
    if (s.repetition_penalty, s.presence_penalty, s.frequency_penalty) != (1, 0, 0):
        hit, count = np.unique(np.asarray(history[-s.penalty_window :], np.int64), return_counts=True)
        old = logits[hit]
        new = np.where(old < 0, old * s.repetition_penalty, old / s.repetition_penalty)
        new -= s.presence_penalty + s.frequency_penalty * count
        logits[hit] = new
    if allowed is not None:
        ids, logits = ids[allowed[ids]], logits[allowed[ids]]
    greedy = s.temperature < 1e-5
    if greedy or s.top_k:
        order = largest(ids, logits, 1 if greedy else max(s.top_k, s.min_keep))
    elif s.top_p < 1 or s.min_p:
        order = largest(ids, logits, len(ids))
    else:
        order = np.arange(len(ids))
    ids, logits = ids[order], logits[order]
    if greedy:
        return int(ids[0])
    kept = len(logits)
    if s.top_p < 1 or s.min_p:
        scaled = (logits - logits[0]) / s.temperature
        if s.top_p < 1:
            probability = np.exp(scaled - log_sum_exp(scaled))
            before = np.cumsum(probability) - probability
            kept = max(s.min_keep, int((before < s.top_p).sum()))
        if s.min_p:
            kept = min(kept, max(s.min_keep, int((scaled >= np.log(s.min_p)).sum())))
    logits = logits[: min(kept, len(logits))]
    if len(logits) == 1:
        return int(ids[0])
    cumulative = np.cumsum(np.exp((logits - logits.max()) / s.temperature))
    drawn = np.random.Generator(np.random.Philox(key=[s.seed, step])).random() * cumulative[-1]
    return int(ids[min(int(np.searchsorted(cumulative, drawn, side="right")), len(logits) - 1)])
