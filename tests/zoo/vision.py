"""Architectures of torchvision and timm: one variant of each family, with random weights.

Nothing is fetched, and both libraries are imported when a model is built, not before: they lie in
a folder that `make zoo` fills (see `borrowed`). A line of a table says: name, side of the image,
options, frozen layers, layers to cut. Where a family is regular, options make it short and narrow.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .alive import alive, calibrate
from .borrowed import borrow
from .case import Case

CLASSES = 10
BATCH = 2


def images(side: int, *, frames: int = 0) -> Tensor:
    shape = (BATCH, 3, frames, side, side) if frames else (BATCH, 3, side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def ready(make: Callable[[], nn.Module], inputs: Callable[[], Tensor]) -> nn.Module:
    """Make the model; biases are not 0, and its batch norms know the inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return calibrate(alive(make()), inputs())


def case(
    name: str, make: Callable[[], nn.Module], inputs: Callable[[], Tensor], **known: Any
) -> Case:
    lists = {k: tuple(v.split()) for k, v in known.items()}
    return Case(name, partial(ready, make, inputs), inputs, **lists)


# -- torchvision ---------------------------------------------------------------------------------


def of_torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    """`resnet18`, or a class with its module: `maxvit.MaxVit`"""
    where, _, what = ("torchvision.models." + name).rpartition(".")
    make = getattr(borrow(where), what)
    if what.islower():
        options = {"weights": None, **options}
    return make(**{"num_classes": CLASSES, **options})


def short_resnet(options: dict[str, Any]) -> nn.Module:
    resnet = borrow("torchvision.models.resnet")
    return resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=CLASSES, **options)


def narrow(name: str) -> nn.Module:
    """A VGG or an AlexNet whose classifier has 64 units where it had 4096."""
    model = of_torchvision(name, {})
    first = True
    for i, layer in enumerate(model.classifier):
        if isinstance(layer, nn.Linear):
            rows = CLASSES if layer.out_features == CLASSES else 64
            model.classifier[i] = nn.Linear(layer.in_features if first else 64, rows)
            first = False
    return model


class Pixels(nn.Module):
    """The scores of a segmentation network, which returns a dict of them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)["out"]


def pixels(name: str) -> nn.Module:
    return Pixels(of_torchvision("segmentation." + name, {"weights_backbone": None}))


SWIN = {
    "patch_size": [4, 4],
    "embed_dim": 24,
    "depths": [1, 2],
    "num_heads": [2, 4],
    "window_size": [4, 4],
}
VIT = {
    "image_size": 32,
    "patch_size": 8,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_dim": 32,
    "mlp_dim": 48,
}
MAXVIT = {
    "input_size": (64, 64),
    "stem_channels": 16,
    "partition_size": 2,
    "block_channels": [16, 32],
    "block_layers": [1, 1],
    "head_dim": 8,
    "stochastic_depth_prob": 0.0,
}


def swin_v2() -> nn.Module:
    module = borrow("torchvision.models.swin_transformer")
    block, merging = module.SwinTransformerBlockV2, module.PatchMergingV2
    return module.SwinTransformer(
        **SWIN, num_classes=CLASSES, block=block, downsample_layer=merging
    )


def torchvision_cases() -> list[Case]:
    def add(name: str, side: int, make: Any = None, frames: int = 0, **known: str) -> None:
        options = make if isinstance(make, dict) else {}
        build = make if callable(make) else partial(of_torchvision, name, options)
        name = "torchvision-" + name.rpartition(".")[2].replace("_", "-").lower()
        cases.append(case(name, build, partial(images, side, frames=frames), **known))

    cases: list[Case] = []
    add(
        "alexnet",
        64,
        partial(narrow, "alexnet"),
        cuts="features.0 features.3 features.6 features.8 features.10 classifier.1 classifier.4",
        frozen="classifier.6",
    )
    add(
        "vgg11",
        32,
        partial(narrow, "vgg11"),
        cuts="features.0 features.3 features.18 classifier.0 classifier.3",
        frozen="classifier.6",
    )
    add(
        "vgg11_bn",
        32,
        partial(narrow, "vgg11_bn"),
        cuts="features.0 features.4 features.25 classifier.0 classifier.3",
        frozen="classifier.6",
    )
    add("resnet18", 64, cuts="conv1 layer1.0.conv1 layer2.0.conv2 layer4.1.conv2", frozen="fc")
    add("resnet50", 64, cuts="conv1 layer1.0.conv1 layer1.0.conv2 layer4.2.conv3", frozen="fc")
    add(
        "resnext50_32x4d",
        64,
        partial(short_resnet, {"groups": 32, "width_per_group": 4}),
        cuts="conv1 layer1.0.conv3",
        frozen="fc",
    )
    add(
        "wide_resnet50_2",
        64,
        partial(short_resnet, {"width_per_group": 128}),
        cuts="conv1 layer1.0.conv1 layer1.0.conv2",
        frozen="fc",
    )
    add("densenet121", 64, cuts="features.denseblock1.denselayer1.conv1", frozen="classifier")
    add(
        "squeezenet1_1",
        64,
        cuts="features.0 features.3.squeeze features.3.expand1x1 features.3.expand3x3",
        frozen="classifier.1",
    )
    add(
        "inception_v3",
        96,
        {"init_weights": False},
        cuts="Conv2d_1a_3x3.conv Mixed_5b.branch5x5_1.conv Mixed_5b.branch5x5_2.conv",
        frozen="fc",
    )
    add(
        "googlenet",
        64,
        {"init_weights": False, "aux_logits": False},
        cuts="conv1.conv inception3a.branch2.0.conv inception3a.branch2.1.conv",
        frozen="fc",
    )
    add(
        "mobilenet_v2",
        64,
        cuts="features.1.conv.0.0 features.2.conv.0.0 features.18.0",
        frozen="classifier.1",
    )
    add(
        "mobilenet_v3_small",
        64,
        cuts="features.1.block.1.fc1 features.2.block.0.0 features.4.block.0.0 classifier.0",
        frozen="classifier.3",
    )
    add("mobilenet_v3_large", 64, cuts="features.2.block.0.0 classifier.0", frozen="classifier.3")
    add("shufflenet_v2_x0_5", 64, cuts="stage2.0.branch2.0 stage2.1.branch2.0 conv5.0", frozen="fc")
    add("mnasnet0_5", 64, cuts="layers.8.0.layers.0 layers.14", frozen="classifier.1")
    add(
        "efficientnet_b0",
        64,
        cuts="features.2.0.block.0.0 features.2.0.block.2.fc1 features.8.0",
        frozen="classifier.1",
    )
    add("efficientnet_v2_s", 64, cuts="features.2.0.block.0.0 features.7.0", frozen="classifier.1")
    add("regnet_x_400mf", 64, cuts="stem.0", frozen="fc")
    add("regnet_y_400mf", 64, cuts="stem.0 trunk_output.block1.block1-0.f.se.fc1", frozen="fc")
    add(
        "convnext_tiny", 64, cuts="features.1.0.block.3 features.7.2.block.3", frozen="classifier.2"
    )
    add(
        "VisionTransformer",
        32,
        VIT,
        cuts="encoder.layers.encoder_layer_0.mlp.0 encoder.layers.encoder_layer_1.mlp.0",
        frozen="heads.head",
    )
    add(
        "SwinTransformer",
        32,
        SWIN,
        cuts="features.1.0.mlp.0 features.3.0.mlp.0 features.3.1.mlp.0",
        frozen="head",
    )
    add(
        "SwinTransformerV2",
        32,
        swin_v2,
        cuts="features.1.0.mlp.0 features.3.0.mlp.0 features.3.1.mlp.0",
        frozen="head",
    )
    add(
        "maxvit.MaxVit",
        64,
        MAXVIT,
        cuts=(
            "blocks.0.layers.0.layers.MBconv.layers.squeeze_excitation.fc1 "
            "blocks.0.layers.0.layers.window_attention.mlp_layer.1"
        ),
        frozen="classifier.5",
    )
    add(
        "fcn_resnet50",
        64,
        partial(pixels, "fcn_resnet50"),
        cuts="network.backbone.layer1.0.conv1 network.classifier.0",
        frozen="network.classifier.4",
    )
    add(
        "deeplabv3_mobilenet",
        64,
        partial(pixels, "deeplabv3_mobilenet_v3_large"),
        cuts="network.classifier.0.convs.0.0 network.classifier.0.project.0 network.classifier.1",
        frozen="network.classifier.4",
    )
    add(
        "lraspp_mobilenet",
        64,
        partial(pixels, "lraspp_mobilenet_v3_large"),
        cuts="network.classifier.cbr.0",
        frozen="network.classifier.low_classifier network.classifier.high_classifier",
    )
    add("video.r3d_18", 32, frames=4, cuts="stem.0 layer1.0.conv1.0", frozen="fc")
    add("video.r2plus1d_18", 32, frames=4, cuts="stem.0 layer1.0.conv1.0.0", frozen="fc")
    return cases


TORCHVISION: list[Case] = torchvision_cases()


# -- timm ----------------------------------------------------------------------------------------


def of_timm(name: str, options: dict[str, Any]) -> nn.Module:
    return borrow("timm").create_model(name, pretrained=False, num_classes=CLASSES, **options)


# calculates in float32 also in a float64 model: measured
FLOAT32 = {
    "deepseek_vit_412m",
    "efficientvit_b0",
    "naflexvit_base_patch16_gap",
    "resnetv2_50d_evos",
    "test_efficientnet_evos",
}
WARNS = {"sequencer2d_s"}  # torch.export, of an LSTM's weights

TINY = {"embed_dim": 48, "depth": 2, "num_heads": 4}
NARROW = {"embed_dim": 64, "depth": 2, "num_heads": 4}
STAGES = {"depths": (1, 1, 1, 1)}
LAYERS = {"layers": (1, 1, 1, 1)}
HIERA = {"embed_dim": 32, "stages": (1, 1, 2, 1)}
WINDOWS = {"depths": (1, 2), "embed_dim": 24, "num_heads": (2, 4)}
DAVIT = STAGES | {"embed_dims": (24, 48, 96, 192), "num_heads": (3, 3, 6, 6)}
TWO_LEFT = {"global_att_blocks": (3,)}

# name, side (with "=": the model must know it), options, frozen, cuts
TABLE: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("beit_base_patch16_224", "=64", TINY, "head", "blocks.0.mlp.fc1"),
    ("eca_botnext26ts_256", "=64", {}, "head.fc", ""),
    ("lambda_resnet26t", "=64", {}, "head.fc", ""),
    ("test_byobnet", "=64", {}, "head.fc", ""),
    ("mobileone_s1", "=64", {}, "head.fc", ""),
    ("gernet_s", "=64", {}, "head.fc", ""),
    ("repvgg_a0", "=64", {}, "head.fc", ""),
    ("cait_xxs24_224", "=64", TINY, "head", "blocks.0.mlp.fc1"),
    ("coat_lite_tiny", "=64", {}, "head", "serial_blocks1.0.mlp.fc1"),
    ("convit_tiny", "=64", {"depth": 3, "local_up_to_layer": 2}, "head", "blocks.0.mlp.fc1"),
    ("convmixer_768_32", "64", {}, "head", ""),
    ("test_convnext", "64", {}, "head.fc", "stages.0.blocks.0.mlp.fc1"),
    ("convnext_zepto_rms", "64", {}, "head.fc", "stages.0.blocks.0.mlp.fc1"),
    ("convnextv2_atto", "64", {}, "head.fc stages.0.blocks.0.mlp.fc1", ""),
    ("cpubone_nano", "64", {}, "head.classifier", ""),
    ("crossvit_9_dagger_240", "64", {}, "head", "blocks.0.blocks.0.0.mlp.fc1"),
    ("csatv2", "64", {}, "head.fc", ""),
    ("cs3darknet_focus_s", "64", {}, "head.fc", "stages.0.blocks.0.conv1.conv"),
    ("darknet17", "64", {}, "head.fc", "stages.0.blocks.0.conv1.conv"),
    ("cspnext_tiny", "64", {}, "head.fc", "stages.0.1.blocks.0.conv1.conv"),
    ("davit_tiny", "64", DAVIT, "head.fc", "stages.0.blocks.0.0.mlp.fc1"),
    ("deepseek_vit_412m", "=224", NARROW, "head", ""),
    ("deit_tiny_distilled_patch16_224", "=64", TINY, "head head_dist", "blocks.0.mlp.fc1"),
    ("deit3_small_patch16_224", "=64", TINY, "head", "blocks.0.mlp.fc1"),
    ("densenetblur121d", "64", {}, "classifier", "features.denseblock1.denselayer1.conv1"),
    ("dla46x_c", "64", {}, "fc", ""),
    ("dla34", "64", {}, "fc", "level2.tree1.conv1"),
    ("dpn48b", "64", {}, "classifier", ""),
    ("edgenext_xx_small", "64", {}, "head.fc", "stages.0.blocks.0.mlp.fc1"),
    ("efficientformer_l1", "=224", {}, "head head_dist", "stages.0.blocks.0.mlp.fc1"),
    ("efficientformerv2_s0", "=64", {}, "head head_dist", ""),
    ("test_efficientnet", "64", {}, "classifier", "blocks.3.0.conv_pw blocks.3.0.se.conv_reduce"),
    ("test_efficientnet_gn", "64", {}, "classifier", ""),
    ("test_efficientnet_ln", "64", {}, "classifier", ""),
    ("test_efficientnet_evos", "64", {}, "classifier", ""),
    ("mixnet_s", "64", {}, "classifier", "blocks.2.0.se.conv_reduce"),
    ("efficientvim_m1", "64", {}, "heads", ""),
    ("efficientvit_b0", "64", {}, "head.classifier.4", "stages.0.blocks.0.main.inverted_conv.conv"),
    ("efficientvit_m0", "=64", {}, "head.linear", ""),
    ("eva02_tiny_patch14_224", "=64", TINY, "head", ""),
    ("vit_tiny_patch16_dinov3_qkvb", "=64", TINY, "head", "blocks.0.mlp.fc1"),
    ("fasternet_t0", "64", {}, "classifier", ""),
    ("fastvit_t8", "64", {}, "head.fc", "stages.0.blocks.0.mlp.fc1"),
    ("focalnet_tiny_srf", "64", {}, "head.fc", "layers.0.blocks.0.mlp.fc1"),
    ("gcvit_xxtiny", "=64", {}, "head.fc", "stages.0.blocks.0.mlp.fc1"),
    ("gemma4_vit_167m", "=64", NARROW, "head", ""),
    ("ghostnet_050", "64", {}, "classifier", "blocks.3.0.se.conv_reduce"),
    ("ghostnetv2_100", "64", {}, "classifier", ""),
    ("hgnetv2_b0", "64", {}, "head.fc", ""),
    ("hiera_tiny_224", "=64", HIERA, "head.fc", "blocks.0.mlp.fc1"),
    ("sam2_hiera_tiny", "64", HIERA | TWO_LEFT, "head.fc", "blocks.0.mlp.fc1"),
    ("hrnet_w18_small", "64", {}, "classifier", "layer1.0.conv1 stage2.0.branches.0.0.conv1"),
    ("iformer_t", "64", {}, "head", ""),
    ("inception_next_atto", "64", {}, "head.fc2", "stages.0.blocks.0.mlp.fc1"),
    ("lcnetv2_small", "64", {}, "classifier", ""),
    ("levit_128s", "=64", {}, "head head_dist", ""),
    ("lowformer_b0", "64", {}, "classifier", ""),
    ("test_mambaout", "64", {}, "head.fc", ""),
    ("test_coatnet", "=64", {}, "head.fc", "stages.0.blocks.0.se.fc1"),
    ("test_maxvit", "=64", {}, "head.fc", "stages.0.blocks.0.attn_block.mlp.fc1"),
    ("poolformerv2_s12", "64", {}, "head.fc", ""),
    ("caformer_s18", "64", {}, "head.fc", ""),
    ("gmlp_ti16_224", "=64", {}, "head", ""),
    ("resmlp_12_224", "=64", {}, "head", "blocks.0.mlp_channels.fc1"),
    ("mixer_s16_224", "=64", {}, "head", "blocks.0.mlp_channels.fc1"),
    ("lcnet_035", "64", {}, "classifier", "blocks.5.0.se.conv_reduce"),
    ("mobilenetv3_small_050", "64", {}, "classifier", "blocks.1.0.conv_pw"),
    ("mobilenetv4_conv_small_035", "64", {}, "classifier", ""),
    ("mobilevit_xxs", "=64", {}, "head.fc", "stages.0.0.conv1_1x1.conv"),
    ("mobilevitv2_050", "=64", {}, "head.fc", "stages.0.0.conv1_1x1.conv"),
    ("mvitv2_tiny", "=64", {}, "head.fc", "stages.0.blocks.0.mlp.fc1"),
    ("naflexvit_base_patch16_gap", "=64", TINY, "head", "blocks.0.mlp.fc1"),
    ("nest_tiny", "=64", {}, "head", "levels.0.transformer_encoder.0.mlp.fc1"),
    ("nextvit_small", "64", {}, "head.fc", "stages.0.blocks.0.mlp.fc1"),
    ("test_nfnet", "64", {}, "head.fc", ""),
    ("pit_ti_distilled_224", "=64", {}, "head head_dist", "transformers.0.blocks.0.mlp.fc1"),
    ("pvt_v2_b0", "64", {}, "head", "stages.0.blocks.0.mlp.fc1"),
    ("qwen3_vit_88m", "=64", NARROW, "head", "encoder.blocks.0.mlp.fc1"),
    ("rdnet_tiny", "64", {}, "head.fc", ""),
    ("regnety_002", "64", {}, "head.fc", "s1.b1.se.fc1"),
    ("regnetz_005", "64", {}, "head.fc", ""),
    ("repghostnet_050", "64", {}, "classifier", ""),
    ("repvit_m1", "=64", {}, "head", ""),
    ("res2net50_26w_4s", "64", LAYERS, "fc", ""),
    ("resnest14d", "64", {}, "fc", ""),
    ("test_resnet", "64", {}, "fc", "layer1.0.conv1"),
    ("resnet10t", "64", {}, "fc", "layer1.0.conv1"),
    ("ecaresnet26t", "64", {}, "fc", "layer1.0.conv1"),
    ("resnetblur18", "64", {}, "fc", "layer1.0.conv1"),
    ("resnetv2_18", "64", {}, "head.fc", "stages.0.blocks.0.conv1"),
    ("resnetv2_50d_evos", "64", LAYERS, "head.fc", ""),
    ("rexnet_100", "64", {}, "head.fc", ""),
    ("selecsls42", "64", {}, "fc", ""),
    ("legacy_seresnet18", "64", {}, "last_linear", "layer1.0.conv1"),
    ("sequencer2d_s", "=64", LAYERS, "head", "stages.0.blocks.0.mlp_channels.fc1"),
    ("shvit_s1", "64", {}, "head.l", ""),
    ("skresnet18", "64", {}, "fc", ""),
    ("starnet_s050", "64", {}, "head", ""),
    ("swiftformer_xs", "=64", {}, "head head_dist", "stages.0.blocks.0.pwconv1"),
    ("swin_tiny_patch4_window7_224", "=64", WINDOWS, "head.fc", "layers.0.blocks.0.mlp.fc1"),
    ("swinv2_tiny_window8_256", "=64", WINDOWS, "head.fc", "layers.0.blocks.0.mlp.fc1"),
    ("tiny_vit_5m_224", "64", {}, "head.fc", "stages.0.blocks.0.conv1.conv"),
    ("tnt_s_patch16_224", "=64", {"depth": 2}, "head", "blocks.0.mlp_in.fc1"),
    ("tresnet_m", "64", LAYERS, "head.fc", ""),
    ("twins_svt_small", "=64", {"depths": (1, 1, 2, 1)}, "head", "blocks.0.0.mlp.fc1"),
    ("visformer_tiny", "=64", {}, "head", ""),
    ("test_vit", "=64", {}, "head", "blocks.0.mlp.fc1"),
    ("test_vit3", "=64", {}, "head", ""),
    ("test_vit_relpos", "=64", {}, "head", ""),
    ("vit_srelpos_small_patch16_224", "=64", TINY, "head", ""),
    ("vit_tiny_r_s16_p8_224", "=64", {"depth": 2}, "head", "blocks.0.mlp.fc1"),
    (
        "samvit_base_patch16_224",
        "=64",
        TINY | {"global_attn_indexes": (1,)},
        "head",
        "blocks.0.mlp.fc1",
    ),
    ("vit_base_patch16_siglip_224", "=64", TINY, "head", "blocks.0.mlp.fc1"),
    ("vit_small_patch16_18x2_224", "=64", TINY, "head", "blocks.0.ffns.0.mlp.fc1"),
    ("vit_base_patch16_rope_reg1_gap_256", "=64", TINY, "head", "blocks.0.mlp.fc1"),
    ("vitamin_small_224", "=64", {}, "head", ""),
    ("volo_d1_224", "=64", {}, "head", "network.0.0.mlp.fc1"),
    ("ese_vovnet19b_slim_dw", "64", {}, "head.fc", ""),
    ("legacy_xception", "64", {}, "fc", ""),
    ("xcit_nano_12_p8_224", "=64", {"depth": 2}, "head", "blocks.0.mlp.fc1"),
]


def timm_cases() -> list[Case]:
    cases = []
    for name, side, options, frozen, cuts in TABLE:
        size = int(side.removeprefix("="))
        told = {**options, "img_size": size} if side.startswith("=") else options
        make, inputs = partial(of_timm, name, told), partial(images, size)
        title = "timm-" + name.replace("_", "-")
        tags = " ".join(t for t, n in (("float32", FLOAT32), ("warns", WARNS)) if name in n)
        cases.append(case(title, make, inputs, cuts=cuts, frozen=frozen, tags=tags))
    return cases


TIMM: list[Case] = timm_cases()
