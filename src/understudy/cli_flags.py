"""What several verbs are told in the same words: their flags, with their help."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

Data = Annotated[
    str,
    Parameter(
        help="A set's name (see understudy datasets), a folder of class folders, a zip, a CSV, parquet or tar files."
    ),
]
DataRoot = Annotated[str | None, Parameter(help="Folder of the named sets; UNDERSTUDY_DATA, then ./data, where unset.")]
Download = Annotated[bool, Parameter(negative=(), help="Fetch a named set that is not there.")]
Size = Annotated[
    int | None, Parameter(help="Pixels a side that images are brought to; where unset, 224 if their sizes differ.")
]

FLAG = Parameter(negative=())

OnlyClasses = Annotated[tuple[str, ...], Parameter(help="Learn from the samples of these classes only.")]
OmitClasses = Annotated[tuple[str, ...], Parameter(help="Leave the samples of these classes out.")]
TrustCode = Annotated[
    bool, FLAG, Parameter(help="Import the function that made the model, where that is one of yours (pkg.mod:fn).")
]
Overwrite = Annotated[bool, FLAG, Parameter(help="Replace what the folder holds.")]

Precision = Annotated[
    Literal["auto", "32", "bf16", "fp16"] | None,
    Parameter(
        help="Of the forward pass; auto is bf16 where the processor has units for it and the net gains by it, else 32."
    ),
]
Accelerator = Annotated[Literal["auto", "cpu", "cuda", "mps"] | None, Parameter(help="Where to compute.")]
Devices = Annotated[int | None, Parameter(help="How many processes share each batch.")]
Workers = Annotated[int | None, Parameter(help="Processes that decode images; one a core, at most 8, where unset.")]
CheckpointEvery = Annotated[float | None, Parameter(help="Seconds between checkpoints.")]

# of BiT-HyperRule
BatchSize = Annotated[
    int | None,
    Parameter(
        help="Images a forward pass; they add up to the rule's batch exactly. As many as are likely to fit where unset."
    ),
]
UpdateBatch = Annotated[
    int, Parameter(help="Images an update, 512 by the rule; its learning rate is scaled with them.")
]
Variant = Annotated[Literal["code", "paper"], Parameter(help="The rule as in the released code, or as in the paper.")]
Steps = Annotated[int | None, Parameter(help="Updates in place of the rule's, its schedule brought to them.")]
CropSize = Annotated[int | None, Parameter(help="Pixels a side that the network reads, in place of the rule's.")]
Crop = Annotated[bool, Parameter(help="Cut images at random; --no-crop brings whole ones to the size.")]
Flip = Annotated[bool | None, Parameter(help="Mirror images; colour images where unset.")]
Mixup = Annotated[bool | None, Parameter(help="Mix images; as the rule says where unset.")]
Draws = Annotated[int, Parameter(help="How often to draw the examples of each number of shots.")]
FromScratch = Annotated[bool, FLAG, Parameter(help="Take a model without pre-trained weights.")]
WithValidation = Annotated[bool, FLAG, Parameter(help="Learn from the sets' own validation parts too.")]
