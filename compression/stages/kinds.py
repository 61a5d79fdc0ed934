"""Every kind of stage a recipe may name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compression.stages.averaging import AverageStage
from compression.stages.bottleneck import BottleneckStage, TransferStage
from compression.stages.builds import CudaStage, ExportStage, OpenVinoStage, QuantizeStage
from compression.stages.closed_loop import ClosedLoopStage
from compression.stages.exits import BranchStage, ExitsStage
from compression.stages.given import GivenStage
from compression.stages.ngrams import NgramsExportStage, NgramsStage
from compression.stages.optimum import OptimumStage
from compression.stages.pruning import PruneStage
from compression.stages.publishing import PublishStage
from compression.stages.quantization_aware import QuantizationAwareStage
from compression.stages.sparsity import SparsifyStage
from compression.stages.teachers import FinetuneStage, LinearTeacherStage, PretrainStage
from compression.stages.tokens import TokensStage
from compression.stages.training import DistilStage, StudentStage
from compression.stages.vocabulary import VocabularyStage

Stage = Annotated[
    PretrainStage
    | FinetuneStage
    | LinearTeacherStage
    | GivenStage
    | AverageStage
    | StudentStage
    | DistilStage
    | BottleneckStage
    | TransferStage
    | PruneStage
    | SparsifyStage
    | TokensStage
    | ExitsStage
    | BranchStage
    | ClosedLoopStage
    | VocabularyStage
    | NgramsStage
    | NgramsExportStage
    | ExportStage
    | OptimumStage
    | QuantizationAwareStage
    | QuantizeStage
    | OpenVinoStage
    | CudaStage
    | PublishStage,
    Field(discriminator="kind"),
]
