"""2-D convolution with a backward pass that is also fast on CPU.

XLA's CPU compiler runs convolutions well forward and badly backward: the kernel's gradient at a
fifth of the forward speed, and anything but a plain NHWC·HWIO convolution inside `lax.cond` a
hundred times slower. On CPU the gradients are therefore written as plain convolutions and matrix
products; elsewhere they are XLA's own.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from v2l_jax.ops.cpu import cpu_form
from v2l_jax.ops.precision import precision_of

_FEW_PIXELS = 16 * 16
_LAYOUT = ("NHWC", "HWIO", "NHWC")
Padding = tuple[tuple[int, int], tuple[int, int]]


def conv_general_dilated(
    inputs: Float[Array, "batch height width channel"],
    kernel: Float[Array, "kh kw channel out"],
    strides: tuple[int, int],
    padding: Any,
    **settings: Any,
) -> Float[Array, "batch h w out"]:
    """Stands in for `lax.conv_general_dilated` in `nn.Conv`.

    Args:
      inputs: images.
      kernel: weights, of the same type.
      strides: 1 or more, the same both ways.
      padding: (before, after) for height and width.
      **settings: what else `nn.Conv` passes; dilation and groups are not supported and must be
        trivial. Without a "precision" products are as exact as the operands' type says
        (`ops.precision`).
    """
    dilation = (*(settings.get("lhs_dilation") or ()), *(settings.get("rhs_dilation") or ()))
    if (
        any(d != 1 for d in dilation)
        or settings.get("feature_group_count", 1) != 1
        or strides[0] != strides[1]
    ):
        raise ValueError("only plain convolutions, of the same stride both ways")
    precision = settings.get("precision") or precision_of(inputs.dtype)
    return _conv(inputs, kernel, strides[0], tuple(map(tuple, padding)), precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, precision: Any
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT, precision=precision
    )


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, precision: Any
) -> tuple[jax.Array, Any]:
    return _conv(x, kernel, stride, padding, precision), (x, kernel)


def _backward(
    stride: int, padding: Padding, precision: Any, residuals: Any, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals

    def on_cpu(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        to_kernel = kernel_gradient(x, gradient, kernel.shape[:2], stride, padding, precision)
        to_input = _input_gradient(x.shape, kernel, gradient, stride, padding, precision)
        return to_input, to_kernel.astype(kernel.dtype)

    def by_xla(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        convolve = functools.partial(
            jax.lax.conv_general_dilated,
            window_strides=(stride, stride),
            padding=padding,
            dimension_numbers=_LAYOUT,
            precision=precision,
        )
        return jax.vjp(convolve, x, kernel)[1](gradient)

    return cpu_form(x, kernel, gradient, cpu=on_cpu, default=by_xla)


_conv.defvjp(_forward, _backward)


def _input_gradient(
    shape: tuple[int, ...],
    kernel: jax.Array,
    gradient: jax.Array,
    stride: int,
    padding: Padding,
    precision: Any,
) -> jax.Array:
    """Plain convolutions of the gradient with the kernel turned around, one for each place that a
    pixel has between strides.

    A pixel meets only every `stride`-th tap. The gradient dilated by the stride would meet all
    taps, most of them with zeros, and XLA's CPU compiler is slow at dilation besides.
    """
    turned = kernel.swapaxes(2, 3)
    counts = [-(-size // stride) for size in shape[1:3]]

    def at(row: int, column: int) -> jax.Array:
        taps, pads = [], []
        for place, (before, _), count, out, length in zip(
            (row, column), padding, counts, gradient.shape[1:3], kernel.shape
        ):
            first = (place + before) % stride
            reach, taken = (place + before) // stride, len(range(first, length, stride))
            taps.append(slice(first, None, stride))
            pads.append((taken - 1 - reach, count + reach - out))
        here = turned[tuple(taps)]
        if 0 in here.shape:
            return jnp.zeros((shape[0], *counts, shape[3]), gradient.dtype)
        return jax.lax.conv_general_dilated(
            gradient, here[::-1, ::-1], (1, 1), pads, dimension_numbers=_LAYOUT, precision=precision
        )

    if stride == 1:
        return at(0, 0)
    places = range(stride)
    pixels = jnp.stack(
        [jnp.stack([at(row, column) for column in places], axis=3) for row in places], axis=2
    )
    return pixels.reshape(shape[0], stride * counts[0], stride * counts[1], shape[3])[
        :, : shape[1], : shape[2]
    ]


def kernel_gradient(
    x: Float[Array, "batch height width channel"],
    gradient: Float[Array, "batch h w out"],
    size: tuple[int, int],
    stride: int,
    padding: Padding,
    precision: Any = None,
) -> Float[Array, "kh kw channel out"]:
    """Gradient of a convolution's kernel by matrix products, an image at a time so that its patches
    stay in cache.

    Patches hold the horizontal taps only. With stride 1 the vertical taps are shifts of the
    gradient, and one product of (kw · channel) × (kh · out) gives all taps; otherwise there is one
    product for each vertical tap.

    Args:
      x: the convolution's input.
      gradient: at its output.
      size: of the kernel.
      stride: the same both ways.
      padding: (before, after) for height and width.
      precision: of the products; None for that of the operands' type.
    """
    (top, bottom), sides = padding
    (height, width), (rows, columns) = size, gradient.shape[1:3]
    contract = functools.partial(
        jax.lax.dot_general,
        dimension_numbers=(((0,), (0,)), ((), ())),
        precision=precision or precision_of(x.dtype),
        preferred_element_type=jnp.float32,
    )

    def horizontal_taps(image: jax.Array) -> jax.Array:
        end = stride * (columns - 1) + 1
        return jnp.concatenate([image[:, j : j + end : stride] for j in range(width)], axis=-1)

    def shifted(image: jax.Array, gradient: jax.Array) -> jax.Array:
        taps = horizontal_taps(jnp.pad(image, ((0, 0), sides, (0, 0))))
        gradient = jnp.pad(gradient, ((height - 1 - top, height - 1 - bottom), (0, 0), (0, 0)))
        shifts = [gradient[i : i + len(image)] for i in reversed(range(height))]
        shifts = jnp.concatenate(shifts, axis=-1).reshape(-1, height * gradient.shape[-1])
        product = contract(taps.reshape(-1, taps.shape[-1]), shifts)
        return product.reshape(taps.shape[-1], height, -1).swapaxes(0, 1)

    def strided(image: jax.Array, gradient: jax.Array) -> jax.Array:
        taps = horizontal_taps(jnp.pad(image, ((top, bottom), sides, (0, 0))))
        gradient, end = gradient.reshape(-1, gradient.shape[-1]), stride * (rows - 1) + 1
        rows_of = [taps[i : i + end : stride].reshape(-1, taps.shape[-1]) for i in range(height)]
        return jnp.stack([contract(patches, gradient) for patches in rows_of])

    of_image = shifted if stride == 1 else strided

    def add(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + of_image(*pair), None

    start = jnp.zeros((height, width * x.shape[-1], gradient.shape[-1]))
    total, _ = jax.lax.scan(add, start, (x, gradient))
    return total.reshape(height, width, x.shape[-1], -1)


def conv_of_few_pixels(
    x: Float[Array, "batch height width c"],
    kernel: Float[Array, "3 3 c d"],
    strides: Any,
    padding: Any,
    **settings: Any,
) -> Float[Array, "batch height width d"]:
    """Stands in for `lax.conv_general_dilated` in an `nn.Conv` of 3×3 taps that keeps the size.

    Where few pixels meet large kernels, a CPU multiplies the matrix of all patches by the kernel:
    at least twice as fast as XLA's convolution, forward and backward.

    Args:
      x: images or features.
      kernel: weights, of the same type.
      strides, padding, **settings: what `nn.Conv` passes; stride 1 and padding "SAME". Without a
        "precision" products are as exact as the operands' type says (`ops.precision`).
    """
    settings["precision"] = precision = settings.get("precision") or precision_of(x.dtype)
    by_xla = functools.partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=padding, **settings
    )
    if x.shape[1] * x.shape[2] > _FEW_PIXELS:
        return by_xla(x, kernel)
    product = functools.partial(_product_of_patches, precision=precision)
    return cpu_form(x, kernel, cpu=product, default=by_xla)


def _product_of_patches(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"], precision: Any
) -> Float[Array, "b h w d"]:
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate(
        [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=-1
    )
    return jnp.dot(patches, kernel.reshape(-1, kernel.shape[-1]), precision=precision)


def max_pool_halves(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """2×2 max pooling as a maximum over axes, on every backend.

    XLA's CPU compiler computes this gradient in a tenth of the time of a pooling window's. Between
    equal pixels the gradient is shared, where torch gives it to the first: after a ReLU these are
    zeros, which pass none on, or lie in flat areas.
    """
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2].reshape(
        batch, height // 2, 2, width // 2, 2, channels
    )
    return jnp.max(x, axis=(2, 4))
