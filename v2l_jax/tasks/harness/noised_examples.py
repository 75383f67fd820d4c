"""Examples of a prompt that are copies of an image's tokens with some of them replaced at
random.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True)
class NoisedExamples:
    """Tokens of the example images of each prompt, as rows of a codebook.

    Attributes:
      inputs: what an example shows.
      outputs: its answer, with the same tokens replaced at the same positions.
    """

    inputs: Int[np.ndarray, "images examples positions"]
    outputs: Int[np.ndarray, "images examples positions"]

    @classmethod
    def draw(
        cls,
        true: Int[np.ndarray, "images *grid"],
        shown: Int[np.ndarray, "images *grid"],
        entries: int,
        counts: Sequence[int],
        seed: int,
    ) -> "NoisedExamples":
        """Replaces tokens; image i's examples depend on its tokens, `seed` and i alone.

        Args:
          true: what outputs are copies of.
          shown: what inputs are copies of.
          entries: of the codebook; replacements are uniform among them.
          counts: how many tokens each example replaces, in the order shown.
          seed: of the random positions and tokens.
        """
        images, positions = len(true), true[0].size
        shape = (images, len(counts), positions)
        outputs, inputs = (
            np.broadcast_to(ids.reshape(images, 1, positions), shape).astype(np.int32)
            for ids in (true, shown)
        )
        for image in range(images):
            rng = np.random.default_rng((seed, image))
            for example, count in enumerate(counts):
                where = rng.permutation(positions)[:count]
                drawn = rng.integers(entries, size=count)
                inputs[image, example, where] = outputs[image, example, where] = drawn
        return cls(inputs, outputs)

    def of_images(self, order: Sequence[int] | Int[np.ndarray, " images"]) -> "NoisedExamples":
        """Image i gets the examples of image `order[i]`."""
        return NoisedExamples(self.inputs[np.asarray(order)], self.outputs[np.asarray(order)])

    def without(self) -> "NoisedExamples":
        """No examples: prompts with the instruction and the query alone."""
        return NoisedExamples(self.inputs[:, :0], self.outputs[:, :0])

    def majority(self) -> Int[np.ndarray, "images positions"]:
        """The most frequent token of the outputs at each position; of equally frequent ones, that
        of the last example.
        """
        outputs = self.outputs[:, ::-1]
        votes = (outputs[:, :, None] == outputs[:, None]).sum(2)
        return np.take_along_axis(outputs, votes.argmax(1)[:, None], axis=1)[:, 0]
