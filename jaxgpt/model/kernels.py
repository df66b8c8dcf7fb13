"""Causal attention by kernels that others keep: Pallas's splash attention on TPUs and cuDNN's on GPUs.

Dimensions: B batch, H heads, T position, K head size. Queries come scaled; segments_BT is as in `attend`.
"""

import jax

LANES = 128  # of a TPU: splash takes lengths that are multiples of so many
_BLOCKS = (1024, 512, 256, LANES)  # of queries and of keys; larger ones do not fit into a TPU's vector memory


def attend_by_splash(
    q_BHTK: jax.Array, k_BHTK: jax.Array, v_BHTK: jax.Array, segments_BT: jax.Array | None, interpret: bool = False
) -> jax.Array:
    """-> (B, H, T, K). T is a multiple of LANES. interpret: on any machine, slowly."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    n_head, n_tokens = q_BHTK.shape[1:3]
    size = next(size for size in _BLOCKS if n_tokens % size == 0)
    blocks = splash.BlockSizes(
        block_q=size,
        block_kv=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        block_q_dq=size,
        block_kv_dq=size,
    )
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([masks.CausalMask((n_tokens, n_tokens))] * n_head),
        block_sizes=blocks,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    if segments_BT is None:
        out_BHTK: jax.Array = jax.vmap(kernel)(q_BHTK, k_BHTK, v_BHTK)
    else:
        out_BHTK = jax.vmap(kernel)(q_BHTK, k_BHTK, v_BHTK, splash.SegmentIds(segments_BT, segments_BT))
    return out_BHTK.astype(v_BHTK.dtype)


def attend_by_cudnn(
    q_BTHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array, segments_BT: jax.Array | None
) -> jax.Array:
    """-> (B, T, H, K). The inputs are bfloat16."""
    same_B1TT = None if segments_BT is None else (segments_BT[:, :, None] == segments_BT[:, None, :])[:, None]
    return jax.nn.dot_product_attention(
        q_BTHK, k_BTHK, v_BTHK, mask=same_B1TT, scale=1.0, is_causal=True, implementation="cudnn"
    )
