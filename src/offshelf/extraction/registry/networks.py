"""The pretrained networks, and what is made of them by parameters.

Addresses and hashes of Keras' files are those of Keras' own source (keras.applications, Keras 3.15); sizes are what its
users have been shown when they downloaded them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from offshelf.errors import InvalidInput
from offshelf.extraction.spec import PRECISIONS, ExtractorSpec, Network, Weights, WeightsFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CLASSES: Final = 1000
_BF16_GAIN: Final = 1.8
"""How much faster 16-bit floats are, on CPUs that have them."""


def pooled(channels: int, side: int, *, classes: bool = True) -> Mapping[str, int]:
    """What can be taken from a network whose last feature maps are squares of that side."""
    taken = {"avg": channels, "max": channels, "flatten": channels * side**2}
    return {**taken, "classes": _CLASSES} if classes else taken


def with_parameters(spec: ExtractorSpec, parameters: Sequence[str]) -> ExtractorSpec:
    """Make the extractor that takes something else from a network, or computes in another precision.

    Parameters
    ----------
    spec
        The network as it is registered.
    parameters
        Outputs and precisions in any order, one of each at most: ``["max", "bf16"]``.

    Raises
    ------
    InvalidInput
        For parameters that it does not have; the message lists those it has.
    """
    network = spec.method
    if not isinstance(network, Network):
        raise InvalidInput(f"{spec.name} has no parameters: call it {spec.name}.")
    outputs = [name for name in parameters if name in network.outputs]
    precisions = [name for name in PRECISIONS if name in parameters]
    if len(outputs) > 1 or len(precisions) > 1 or len(outputs) + len(precisions) != len(parameters):
        raise InvalidInput(
            f"{spec.name}:{':'.join(parameters)} cannot be: after {spec.name} may stand what is taken from it "
            f"({', '.join(network.outputs)}) and its precision ({', '.join(PRECISIONS)}), as in "
            f"{spec.name}:{list(network.outputs)[-1]}:bf16."
        )
    output = outputs[0] if outputs else network.output
    precision = precisions[0] if precisions else network.precision
    kept = [output] * (output != network.output) + [precision] * (precision != network.precision)
    if not kept:
        return spec
    return replace(
        spec,
        name=":".join([spec.name, *kept]),
        description=f"{spec.description} Here: {' and '.join(_WORDS.get(name, f'its layer {name}') for name in kept)}.",
        dimension=network.outputs[output],
        cost_seconds=spec.cost_seconds / (_BF16_GAIN if precision == "bf16" else 1.0),
        method=replace(network, output=output, precision=precision),
    )


_WORDS: Final = {
    "avg": "its last feature maps, averaged",
    "max": "the largest value of each of its last feature maps",
    "flatten": "all values of its last feature maps",
    "classes": "the probabilities of the 1000 kinds of things that it knows",
    "bf16": "computed with 16-bit floats, which is faster on some CPUs and a little less exact",
    "f32": "computed with 32-bit floats",
}


NO_CLASSES: Final = "It has no classes: no digest of the file with its last layers is published."
"""What is said of a network of which the file without them alone can be checked."""


def _keras(
    name: str,
    what: str,
    *,
    licence: str,
    folder: str,
    file: tuple[str, str, int],
    classes_file: tuple[str, str, int] | None = None,
    channels: int,
    side: int,
    cost_seconds: float,
    size: int = 224,
    **preprocessing: Any,
) -> ExtractorSpec:
    """Register a network of Keras Applications (`offshelf.extraction.networks.applications`).

    Parameters
    ----------
    folder
        Where its files are published, below `_KERAS`.
    file, classes_file
        Name, digest and bytes (0 where nobody tells) of the file without the last layers, and of the one with them, if
        that has a known digest.
    channels, side
        Shape of the last feature maps.
    preprocessing
        What differs from RGB of 0 to 255.
    """

    def weights(filename: str, digest: str, size: int) -> Weights:
        return Weights(
            name=f"{what}, trained on ImageNet",
            files=(WeightsFile(filename, digest, source=f"{_KERAS}/{folder}/{filename}", size=size),),
            licence=licence,
        )

    return ExtractorSpec(
        name=name,
        description=f"A network ({what}) that has learned to tell 1000 kinds of things in photos; its last feature "
        f"maps, averaged.{'' if classes_file else f' {NO_CLASSES}'}",
        dimension=channels,
        cost_seconds=cost_seconds,
        method=Network(
            architecture=f"keras-{name}",
            builder=f"offshelf.extraction.networks.applications:{name}",
            weights=weights(*file),
            classes_weights=weights(*classes_file) if classes_file else None,
            size=(size, size),
            outputs=pooled(channels, side, classes=classes_file is not None),
            output="avg",
            **{"colour": "RGB", **preprocessing},
        ),
    )


_KERAS: Final = "https://storage.googleapis.com/tensorflow/keras-applications"
_KERNELS: Final = "weights_tf_dim_ordering_tf_kernels"
_CAFFE: Final[Mapping[str, Any]] = {"colour": "BGR", "mean": (103.939, 116.779, 123.68)}
_FROM_MINUS_1_TO_1: Final[Mapping[str, Any]] = {"mean": (127.5,) * 3, "scale": (127.5,) * 3}
_TORCH: Final[Mapping[str, Any]] = {
    "mean": (0.485 * 255, 0.456 * 255, 0.406 * 255),
    "scale": (0.229 * 255, 0.224 * 255, 0.225 * 255),
}

_VGG16: Final = _keras(
    "vgg16",
    "VGG16",
    licence="CC BY 4.0 (Visual Geometry Group, University of Oxford)",
    folder="vgg16",
    file=(f"vgg16_{_KERNELS}_notop.h5", "md5:6d6bbae143d832006294945121d1f1fc", 58_889_256),
    classes_file=(f"vgg16_{_KERNELS}.h5", "md5:64373286793e3c8b2b4e3219cbf3544b", 553_467_096),
    channels=512,
    side=7,
    cost_seconds=0.27,
    **_CAFFE,
)
_VGG19: Final = _keras(
    "vgg19",
    "VGG19",
    licence="CC BY 4.0 (Visual Geometry Group, University of Oxford)",
    folder="vgg19",
    file=(f"vgg19_{_KERNELS}_notop.h5", "md5:253f8cb515780f3b799900260a226db6", 80_134_624),
    classes_file=(f"vgg19_{_KERNELS}.h5", "md5:cbe5617147190e668d6c5d5026f83318", 574_710_816),
    channels=512,
    side=7,
    cost_seconds=0.34,
    **_CAFFE,
)
_RESNET50: Final = _keras(
    "resnet50",
    "ResNet-50",
    licence="MIT (Kaiming He and others)",
    folder="resnet",
    file=(f"resnet50_{_KERNELS}_notop.h5", "md5:4d473c1dd8becc155b73f8504c6f6626", 94_765_736),
    classes_file=(f"resnet50_{_KERNELS}.h5", "md5:2cb95161c43110f7111970584f804107", 102_967_424),
    channels=2048,
    side=7,
    cost_seconds=0.07,
    **_CAFFE,
)
_INCEPTION: Final = _keras(
    "inception",
    "Inception v3",
    licence="Apache-2.0 (Google)",
    folder="inception_v3",
    file=(f"inception_v3_{_KERNELS}_notop.h5", "md5:bcbd6486424b2319ff4ef7d526e38f63", 87_910_968),
    classes_file=(f"inception_v3_{_KERNELS}.h5", "md5:9a0d58056eeedaa3f26cb7ebd46da564", 96_112_376),
    channels=2048,
    side=8,
    size=299,
    cost_seconds=0.11,
    **_FROM_MINUS_1_TO_1,
)
_XCEPTION: Final = _keras(
    "xception",
    "Xception",
    licence="MIT (François Chollet)",
    folder="xception",
    file=(f"xception_{_KERNELS}_notop.h5", "md5:b0042744bf5b25fce3cb969f33bebb97", 83_683_744),
    classes_file=(f"xception_{_KERNELS}.h5", "md5:0a58e3b7378bc2990ea3b43d5981f1f6", 91_884_032),
    channels=2048,
    side=10,
    size=299,
    cost_seconds=0.17,
    **_FROM_MINUS_1_TO_1,
)
_DENSENET: Final = _keras(
    "densenet",
    "DenseNet-121",
    licence="BSD-3-Clause (Gao Huang and others)",
    folder="densenet",
    file=(f"densenet121_{_KERNELS}_notop.h5", "md5:30ee3e1110167f948a6b9946edeeb738", 29_084_464),
    classes_file=(f"densenet121_{_KERNELS}.h5", "md5:9d60b8095a5708f2dcce2bca79d332c7", 0),
    channels=1024,
    side=7,
    cost_seconds=0.06,
    **_TORCH,
)
_MOBILENETV2: Final = _keras(
    "mobilenetv2",
    "MobileNet v2",
    licence="Apache-2.0 (Google)",
    folder="mobilenet_v2",
    # Keras checks no hash of it; this one is what others found in files of that name.
    file=(
        f"mobilenet_v2_{_KERNELS}_1.0_224_no_top.h5",
        "sha256:f8aff69536bd77a692c594f559c798c19bf7f3f36668fc9fa00b21c6aab4797c",
        9_406_464,
    ),
    channels=1280,
    side=7,
    cost_seconds=0.013,
    **_FROM_MINUS_1_TO_1,
)
_MOBILENETV3: Final = _keras(
    "mobilenetv3",
    "MobileNet v3, large",
    licence="Apache-2.0 (Google)",
    folder="mobilenet_v3",
    file=("weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5", "md5:07fb09a5933dd0c8eaafa16978110389", 12_683_000),
    classes_file=("weights_mobilenet_v3_large_224_1.0_float.h5", "md5:59e551e166be033d707958cf9e29a6a7", 0),
    channels=960,
    side=7,
    cost_seconds=0.012,
)
_EFFICIENTNETV2B0: Final = _keras(
    "efficientnetv2b0",
    "EfficientNetV2-B0",
    licence="Apache-2.0 (Google)",
    folder="efficientnet_v2",
    file=("efficientnetv2-b0_notop.h5", "md5:893217f2bb855e2983157299931e43ff", 24_274_472),
    classes_file=("efficientnetv2-b0.h5", "md5:21ecbf6da12460d5c40bb2f29ceb2188", 0),
    channels=1280,
    side=7,
    cost_seconds=0.023,
)
_CONVNEXTTINY: Final = _keras(
    "convnexttiny",
    "ConvNeXt, tiny",
    licence="MIT (Meta)",
    folder="convnext",
    file=(
        "convnext_tiny_notop.h5",
        "sha256:d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
        111_650_432,
    ),
    classes_file=(
        "convnext_tiny.h5",
        "sha256:8ae6e78ce2933352b1ef4008e6dd2f17bc40771563877d156bc6426c7cf503ff",
        0,
    ),
    channels=768,
    side=7,
    cost_seconds=0.107,
)

_GOOGLENET: Final = ExtractorSpec(
    name="googlenet",
    description="A network (GoogLeNet, Inception v1) that has learned to tell 1000 kinds of things in photos; "
    "its last feature maps, averaged.",
    dimension=1024,
    cost_seconds=0.036,
    method=Network(
        architecture="bvlc-googlenet",
        builder="offshelf.extraction.networks.googlenet:build",
        weights=Weights(
            name="BVLC GoogLeNet, trained on ImageNet",
            files=(
                WeightsFile(
                    "googlenet_bvlc.npz",
                    "sha256:cf4ea6d9d5b62944e8ce0e4f4da54f34d8febb507402e15e38d9102fc8073d1f",
                    size=28_026_922,
                ),
                # Hash and address are those of models/bvlc_googlenet/readme.md in BVLC/caffe.
                WeightsFile(
                    "bvlc_googlenet.caffemodel",
                    "sha1:405fc5acd08a3bb12de8ee5e23a96bec22f08204",
                    source="https://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel",
                    size=53_533_754,
                ),
            ),
            licence="unrestricted use (BVLC model zoo)",
            arrays="5f152355b695e0c6b9d0a5fbe1edf54d3e8b326ea5bff535633a8156b1f338ec",
        ),
        size=(224, 224),
        colour="BGR",
        mean=(104.0, 117.0, 123.0),
        outputs=pooled(1024, 7),
        output="avg",
    ),
)

_SQUEEZENET: Final = ExtractorSpec(
    name="squeezenet",
    description="A small network (SqueezeNet 1.1) that has learned to tell 1000 kinds of things in photos; its last "
    f"feature maps, averaged. {NO_CLASSES}",
    dimension=512,
    cost_seconds=0.012,
    method=Network(
        architecture="squeezenet-1.1",
        builder="offshelf.extraction.networks.squeezenet:build",
        weights=Weights(
            name="SqueezeNet 1.1, trained on ImageNet",
            files=(
                WeightsFile(
                    "squeezenet_v1.1_notop.h5",
                    "sha256:2d935d8c102ad1232484a77da8e6fbdf3ff4ab608974a0d8b6283115ffff204f",
                    source="https://github.com/rcmalli/keras-squeezenet/releases/download/v1.0/"
                    "squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5",
                    size=3_032_184,
                ),
            ),
            licence="BSD-2-Clause (Forrest Iandola and others)",
        ),
        size=(227, 227),
        outputs=pooled(512, 13, classes=False),
        output="avg",
        **_CAFFE,
    ),
)

_OVERFEAT: Final = ExtractorSpec(
    name="overfeat",
    description="A network (OverFeat, the fast one) that has learned to tell 1000 kinds of things in photos; its last "
    "layer but two.",
    dimension=3072,
    cost_seconds=0.11,
    method=Network(
        architecture="overfeat-fast",
        builder="offshelf.extraction.networks.overfeat:build",
        weights=Weights(
            name="OverFeat, fast, trained on ImageNet",
            # Nobody has published a hash of it, and its authors' server is gone.
            files=(WeightsFile("net_weight_0", "size:583683488", size=583_683_488),),
            licence="for internal research and evaluation (New York University)",
            restriction="OverFeat's weights may be used for your own research and evaluation alone, and not be passed "
            "on: see the licence of New York University.",
        ),
        size=(231, 231),
        colour="RGB",
        outputs={"-1": _CLASSES, "-2": 4096, "-3": 3072, "-4": 1024 * 6**2, "classes": _CLASSES},
        output="-3",
        mean=(118.380948,) * 3,
        scale=(61.896913,) * 3,
        keras=False,
    ),
)

NETWORKS: Final = (
    _GOOGLENET,
    _VGG16,
    _VGG19,
    _RESNET50,
    _INCEPTION,
    _XCEPTION,
    _DENSENET,
    _SQUEEZENET,
    _OVERFEAT,
    _MOBILENETV2,
    _MOBILENETV3,
    _EFFICIENTNETV2B0,
    _CONVNEXTTINY,
)
"""All, in the order in which catalogues list them: those of the paper first."""
