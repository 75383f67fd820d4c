"""v2l_jax: images become words that a frozen language model already knows."""

__version__ = "0.1.0"
__commit__ = "$Format:%H$"  # `git archive` writes the commit here
