"""The checkpoint of a training opened as a classifier, whether the training is still running or was stopped.

A checkpoint holds weights alone. What model they belong to, and its tokenizer, is written beside the
checkpoints when a training begins, and goes with them when its stage is done.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from compression.classifier import WEIGHTS_FILE, Classifier, write_description
from compression.run_folder import BEST_FILE

# Within the folder of a training.
DESCRIPTION = "classifier"


def describe(classifier: Classifier, training: Path) -> None:
    """Leave word in the folder of a training what is trained there."""
    partial = training / f"{DESCRIPTION}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_description(classifier, partial)
    shutil.rmtree(training / DESCRIPTION, ignore_errors=True)
    partial.rename(training / DESCRIPTION)


def weights_of(folder: Path) -> Path | None:
    """The weights of a checkpoint, or the best so far in a training's folder; None where it is neither."""
    for training, weights in ((folder.parent, folder / WEIGHTS_FILE), (folder, folder / BEST_FILE)):
        if (training / DESCRIPTION).is_dir() and weights.is_file():
            return weights
    return None


def lay_out(weights: Path, target: Path) -> Path:
    """A folder that `classifier.load` opens, with these weights of a training."""
    training = weights.parent if weights.name == BEST_FILE else weights.parent.parent
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(training / DESCRIPTION, target)
    shutil.copyfile(weights, target / WEIGHTS_FILE)  # a copy: a training that goes on removes its checkpoints
    return target
