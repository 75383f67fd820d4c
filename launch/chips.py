"""What a chip can do, by its maker's figures: the denominators of a roofline."""

import dataclasses

from v2l_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip.

    Attributes:
      name: as the topology is called.
      flops: bfloat16 multiply-adds × 2 a second.
      memory: bytes of HBM.
      memory_bandwidth: bytes a second from HBM.
      link_bandwidth: bytes a second out of all its inter-chip links together, one direction.
    """

    name: str
    flops: float
    memory: float
    memory_bandwidth: float
    link_bandwidth: float


# Google Cloud's pages on TPU versions; link figures there are for both directions together.
_CHIPS = {
    "TPU v4": Chip("v4", 275e12, 32e9, 1228e9, 150e9),
    "TPU v5 lite": Chip("v5e", 197e12, 16e9, 819e9, 100e9),
    "TPU v5": Chip("v5p", 459e12, 95e9, 2765e9, 300e9),
    "TPU v6 lite": Chip("v6e", 918e12, 32e9, 1640e9, 224e9),
}


def chip_of(device_kind: str) -> Chip:
    """The chip that JAX calls `device_kind`.

    Raises:
      ConfigError: a kind without figures here.
    """
    if device_kind not in _CHIPS:
        raise ConfigError(
            f"no figures for the chip {device_kind!r}; there are "
            f"{', '.join(c.name for c in _CHIPS.values())}: add it to launch/chips.py"
        )
    return _CHIPS[device_kind]
