"""Convolutional nets, each awkward in one way."""

import torch
import torch.nn.functional as F
from torch import nn

from .case import Case, gap, image, net, register, vector

CASES: list[Case] = []
case = register(CASES)


def conv(inputs: int, outputs: int, size: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, **{"padding": size // 2, **options})


@case(image(), cuts="conv1 conv2", frozen="fc")
def conv_bn_relu():
    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(gap(x))

    return net(
        forward,
        conv1=conv(3, 8, bias=False),
        bn1=nn.BatchNorm2d(8),
        conv2=conv(8, 12, bias=False),
        bn2=nn.BatchNorm2d(12),
        fc=nn.Linear(12, 4),
    )


@case(image(), cuts="conv1 conv2", frozen="fc")
def batchnorm_without_affine():
    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(gap(x))

    return net(
        forward,
        conv1=conv(3, 8),
        bn1=nn.BatchNorm2d(8, affine=False),
        conv2=conv(8, 12),
        bn2=nn.BatchNorm2d(12, track_running_stats=False),
        fc=nn.Linear(12, 4),
    )


@case(image(1, 12), cuts="conv1 conv2 fc1", frozen="fc2")
def lenet():
    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(x.size(0), -1)
        return self.fc2(F.relu(self.fc1(x)))

    return net(
        forward,
        conv1=conv(1, 6),
        conv2=conv(6, 8),
        fc1=nn.Linear(8 * 9, 20),
        fc2=nn.Linear(20, 4),
    )


@case(image(1, 12), cuts="0 3 7", frozen="9")
def lenet_sequential():
    return nn.Sequential(
        conv(1, 6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        conv(6, 8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(72, 20),
        nn.ReLU(),
        nn.Linear(20, 4),
    )


@case(image(1, 14), cuts="conv", frozen="fc2", program=True)
def lenet_with_literal_view():
    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        x = x.view(-1, 392)
        return self.fc2(F.relu(self.fc1(x)))

    return net(forward, conv=conv(1, 8), fc1=nn.Linear(392, 20), fc2=nn.Linear(20, 4))


@case(image(1, 8), cuts="conv", frozen="fc", tags="attribute")
def view_by_attribute():
    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.fc(x.view(-1, self.features))

    return net(forward, conv=conv(1, 8), fc=nn.Linear(128, 4), features=128)


@case(image(), cuts="conv", frozen="fc")
def flatten_channels_last():
    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).permute(0, 2, 3, 1).flatten(1))

    return net(forward, conv=conv(3, 8, stride=2), fc=nn.Linear(128, 4))


@case(image(), cuts="conv", frozen="fc")
def flatten_width_first():
    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).permute(0, 3, 1, 2).reshape(x.shape[0], -1))

    return net(forward, conv=conv(3, 8, stride=2), fc=nn.Linear(128, 4))


@case(image(), cuts="stem conv1", frozen="fc", together="stem conv2")
def basic_block():
    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(gap(x))

    return net(
        forward,
        stem=conv(3, 8),
        conv1=conv(8, 6, bias=False),
        bn1=nn.BatchNorm2d(6),
        conv2=conv(6, 8, bias=False),
        bn2=nn.BatchNorm2d(8),
        fc=nn.Linear(8, 4),
    )


@case(image(), cuts="stem conv1 conv2", frozen="fc", together="down.0 conv2")
def downsample_block():
    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.down(x) + self.bn2(self.conv2(F.relu(self.conv1(x)))))
        return self.fc(gap(x))

    return net(
        forward,
        stem=conv(3, 6),
        conv1=conv(6, 7, stride=2),
        conv2=conv(7, 10),
        bn2=nn.BatchNorm2d(10),
        down=nn.Sequential(conv(6, 10, 1, stride=2), nn.BatchNorm2d(10)),
        fc=nn.Linear(10, 4),
    )


@case(image(), cuts="stem conv1 conv2", frozen="fc", together="stem conv3")
def bottleneck():
    def forward(self, x):
        x = F.relu(self.stem(x))
        y = F.relu(self.conv1(x))
        y = F.relu(self.conv2(y))
        return self.fc(gap(F.relu(x + self.conv3(y))))

    return net(
        forward,
        stem=conv(3, 12),
        conv1=conv(12, 4, 1),
        conv2=conv(4, 5),
        conv3=conv(5, 12, 1),
        fc=nn.Linear(12, 4),
    )


@case(image(), cuts="stem conv1", frozen="fc", together="stem conv2")
def preactivation_block():
    def forward(self, x):
        x = self.stem(x)
        x = x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return self.fc(gap(F.relu(self.bn3(x))))

    return net(
        forward,
        stem=conv(3, 8),
        bn1=nn.BatchNorm2d(8),
        conv1=conv(8, 6),
        bn2=nn.BatchNorm2d(6),
        conv2=conv(6, 8),
        bn3=nn.BatchNorm2d(8),
        fc=nn.Linear(8, 4),
    )


@case(image(), cuts="conv1", frozen="conv2")
def residual_to_the_input():
    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(x)))

    return net(forward, conv1=conv(3, 8), conv2=conv(8, 3))


@case(image(), cuts="stem expand", frozen="fc", together=("expand depthwise", "stem project"))
def inverted_bottleneck():
    def forward(self, x):
        x = self.stem(x)
        y = F.relu6(self.bn1(self.expand(x)))
        y = F.relu6(self.bn2(self.depthwise(y)))
        return self.fc(gap(x + self.project(y)))

    return net(
        forward,
        stem=conv(3, 6),
        expand=conv(6, 12, 1, bias=False),
        bn1=nn.BatchNorm2d(12),
        depthwise=conv(12, 12, groups=12, bias=False),
        bn2=nn.BatchNorm2d(12),
        project=conv(12, 6, 1),
        fc=nn.Linear(6, 4),
    )


@case(image(), cuts="conv1 conv2", frozen="fc", together="conv1 depthwise")
def depthwise_multiplier():
    def forward(self, x):
        x = F.relu(self.depthwise(F.relu(self.conv1(x))))
        return self.fc(gap(F.relu(self.conv2(x))))

    return net(
        forward,
        conv1=conv(3, 6),
        depthwise=conv(6, 12, groups=6),
        conv2=conv(12, 8, 1),
        fc=nn.Linear(8, 4),
    )


@case(image(), cuts="pointwise", frozen="fc depthwise")
def depthwise_on_the_input():
    def forward(self, x):
        x = F.relu(x + self.depthwise(x))
        return self.fc(gap(F.relu(self.pointwise(x))))

    return net(forward, depthwise=conv(3, 3, groups=3), pointwise=conv(3, 8, 1), fc=nn.Linear(8, 4))


@case(image(), cuts="conv1 conv2 conv3", frozen="fc")
def grouped_conv():
    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc(gap(F.relu(self.conv3(x))))

    return net(
        forward,
        conv1=conv(3, 12),
        conv2=conv(12, 8, groups=4),
        conv3=conv(8, 6),
        fc=nn.Linear(6, 4),
    )


@case(image(), cuts="conv1 conv2 conv3", frozen="fc")
def grouped_after_grouped():
    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc(gap(F.relu(self.conv3(x))))

    return net(
        forward,
        conv1=conv(3, 12),
        conv2=conv(12, 12, groups=2),
        conv3=conv(12, 6, groups=3),
        fc=nn.Linear(6, 4),
    )


@case(image(), cuts="stem conv1 conv2", frozen="fc", together="stem conv3")
def resnext_block():
    def forward(self, x):
        x = F.relu(self.stem(x))
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return self.fc(gap(F.relu(x + self.conv3(y))))

    return net(
        forward,
        stem=conv(3, 8),
        conv1=conv(8, 8, 1),
        bn1=nn.BatchNorm2d(8),
        conv2=conv(8, 8, groups=2),
        bn2=nn.BatchNorm2d(8),
        conv3=conv(8, 8, 1),
        fc=nn.Linear(8, 4),
    )


@case(image(), cuts="stem layers.0.conv layers.1.conv", frozen="fc")
def dense_connections():
    def layer(inputs):
        def forward(self, x):
            return torch.cat([x, self.conv(F.relu(self.bn(x)))], 1)

        return net(forward, bn=nn.BatchNorm2d(inputs), conv=conv(inputs, 4))

    def forward(self, x):
        x = self.stem(x)
        for part in self.layers:
            x = part(x)
        return self.fc(gap(F.relu(self.bn(x))))

    return net(
        forward,
        stem=conv(3, 6),
        layers=nn.ModuleList([layer(6), layer(10)]),
        bn=nn.BatchNorm2d(14),
        fc=nn.Linear(14, 4),
    )


@case(image(), cuts="conv1 conv2", frozen="fc")
def cat_with_the_input():
    def forward(self, x):
        y = torch.cat([x, F.relu(self.conv1(x))], 1)
        return self.fc(gap(F.relu(self.conv2(y))))

    return net(forward, conv1=conv(3, 6), conv2=conv(9, 8), fc=nn.Linear(8, 4))


@case(image(), cuts="conv1 conv2", frozen="fc")
def cat_with_itself():
    def forward(self, x):
        y = F.relu(self.conv1(x))
        y = torch.cat([y, y * 2, -y], 1)
        return self.fc(gap(F.relu(self.conv2(y))))

    return net(forward, conv1=conv(3, 6), conv2=conv(18, 8), fc=nn.Linear(8, 4))


@case(image(), cuts="one three pool last", frozen="fc")
def inception():
    def forward(self, x):
        y = [self.one(x), self.three(x), self.pool(F.avg_pool2d(x, 3, 1, 1))]
        return self.fc(gap(F.relu(self.last(F.relu(torch.cat(y, 1))))))

    return net(
        forward,
        one=conv(3, 4, 1),
        three=conv(3, 6),
        pool=conv(3, 5, 1),
        last=conv(15, 8),
        fc=nn.Linear(8, 4),
    )


@case(image(), cuts="conv1 squeeze conv2", frozen="fc", together="conv1 excite")
def squeeze_excite():
    def forward(self, x):
        x = F.relu(self.conv1(x))
        gate = F.adaptive_avg_pool2d(x, 1)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(gate))))
        return self.fc(gap(F.relu(self.conv2(x * gate))))

    return net(
        forward,
        conv1=conv(3, 8),
        squeeze=conv(8, 4, 1),
        excite=conv(4, 8, 1),
        conv2=conv(8, 6),
        fc=nn.Linear(6, 4),
    )


@case(image(), cuts="conv2", frozen="fc conv1")
def spatial_attention():
    def forward(self, x):
        x = F.relu(self.conv1(x))
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        x = x * torch.sigmoid(self.attend(seen))
        return self.fc(gap(F.relu(self.conv2(x))))

    return net(forward, conv1=conv(3, 8), attend=conv(2, 1), conv2=conv(8, 6), fc=nn.Linear(6, 4))


@case(image(), cuts="conv2", frozen="fc conv1")
def efficient_channel_attention():
    def forward(self, x):
        x = F.relu(self.conv1(x))
        gate = self.along(gap(x).unsqueeze(1)).squeeze(1)  # a conv along the channels
        x = x * torch.sigmoid(gate)[:, :, None, None]
        return self.fc(gap(F.relu(self.conv2(x))))

    return net(
        forward,
        conv1=conv(3, 8),
        along=nn.Conv1d(1, 1, 3, padding=1),
        conv2=conv(8, 6),
        fc=nn.Linear(6, 4),
    )


def shuffle(x, groups):
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


@case(image(), cuts="conv1 conv2", frozen="fc")
def channel_shuffle():
    def forward(self, x):
        x = shuffle(F.relu(self.conv1(x)), 2)
        return self.fc(gap(F.relu(self.conv2(x))))

    return net(forward, conv1=conv(3, 8), conv2=conv(8, 6), fc=nn.Linear(6, 4))


@case(image(), cuts="conv1 conv2", frozen="fc", tags="hard")
def channel_shuffle_module():
    return net(
        lambda self, x: self.fc(gap(F.relu(self.conv2(self.shuffle(F.relu(self.conv1(x))))))),
        conv1=conv(3, 8),
        shuffle=nn.ChannelShuffle(2),
        conv2=conv(8, 6),
        fc=nn.Linear(6, 4),
    )


@case(image(), cuts="branch.0", frozen="fc", together="branch.0 branch.2")
def shufflenet_unit():
    def forward(self, x):
        left, right = F.relu(self.stem(x)).chunk(2, 1)
        x = shuffle(torch.cat([left, self.branch(right)], 1), 2)
        return self.fc(gap(x))

    branch = [conv(4, 6, 1), nn.ReLU(), conv(6, 6, groups=6), conv(6, 4, 1), nn.ReLU()]
    return net(forward, stem=conv(3, 8), branch=nn.Sequential(*branch), fc=nn.Linear(8, 4))


@case(image(), cuts="conv1 conv2", frozen="fc")
def pixel_shuffle():
    def forward(self, x):
        x = F.pixel_shuffle(F.relu(self.conv1(x)), 2)
        return self.fc(gap(F.relu(self.conv2(x))))

    return net(forward, conv1=conv(3, 16), conv2=conv(4, 6), fc=nn.Linear(6, 4))


@case(image(), cuts="conv1 conv2", frozen="fc")
def pixel_unshuffle():
    def forward(self, x):
        x = F.pixel_unshuffle(F.relu(self.conv1(x)), 2)
        return self.fc(gap(F.relu(self.conv2(x))))

    return net(forward, conv1=conv(3, 4), conv2=conv(16, 6), fc=nn.Linear(6, 4))


@case(image(), cuts="conv fc1 last", frozen="fc", together="conv fc2")
def split_attention():
    def forward(self, x):
        b, radix = x.shape[0], 2
        x = F.relu(self.conv(x))
        x = x.view(b, radix, -1, *x.shape[2:])
        gate = self.fc2(F.relu(self.fc1(x.sum(1).mean((2, 3)))))
        gate = gate.view(b, radix, -1).softmax(1)[..., None, None]
        return self.fc(gap(F.relu(self.last((x * gate).sum(1)))))

    return net(
        forward,
        conv=conv(3, 12),
        fc1=nn.Linear(6, 5),
        fc2=nn.Linear(5, 12),
        last=conv(6, 7),
        fc=nn.Linear(7, 4),
    )


@case(image(), cuts="down1 down2 up join", frozen="last")
def unet():
    def forward(self, x):
        skip = F.relu(self.down1(x))
        x = F.relu(self.down2(F.max_pool2d(skip, 2)))
        x = torch.cat([F.relu(self.up(x)), skip], 1)
        return self.last(F.relu(self.join(x)))

    return net(
        forward,
        down1=conv(3, 6),
        down2=conv(6, 10),
        up=nn.ConvTranspose2d(10, 5, 2, stride=2),
        join=conv(11, 7),
        last=conv(7, 2, 1),
    )


@case(image(side=4), cuts="conv up last", frozen="fc")
def grouped_transposed_conv():
    def forward(self, x):
        x = F.relu(self.up(F.relu(self.conv(x))))
        return self.fc(gap(F.relu(self.last(x))))

    return net(
        forward,
        conv=conv(3, 8),
        up=nn.ConvTranspose2d(8, 12, 3, stride=2, padding=1, output_padding=1, groups=2),
        last=conv(12, 6),
        fc=nn.Linear(6, 4),
    )


@case(image(side=4), cuts="conv", frozen="fc", together="conv up")
def depthwise_transposed_conv():
    def forward(self, x):
        return self.fc(gap(F.relu(self.up(F.relu(self.conv(x))))))

    return net(
        forward,
        conv=conv(3, 8),
        up=nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, groups=8),
        fc=nn.Linear(8, 4),
    )


@case(lambda: torch.randn(2, 3, 20), cuts="conv1 conv2", frozen="fc")
def causal_conv1d():
    def forward(self, x):
        x = F.relu(self.conv1(F.pad(x, (4, 0))))
        x = F.relu(self.bn(self.conv2(F.pad(x, (2, 0)))))
        return self.fc(x.mean(-1))

    return net(
        forward,
        conv1=nn.Conv1d(3, 8, 3, dilation=2),
        conv2=nn.Conv1d(8, 6, 3),
        bn=nn.BatchNorm1d(6),
        fc=nn.Linear(6, 4),
    )


@case(lambda: torch.randn(2, 2, 6, 6, 6), cuts="conv1 conv2", frozen="fc")
def conv3d():
    def forward(self, x):
        x = F.max_pool3d(F.relu(self.bn(self.conv1(x))), 2)
        return self.fc(F.adaptive_avg_pool3d(F.relu(self.conv2(x)), 1).flatten(1))

    return net(
        forward,
        conv1=nn.Conv3d(2, 6, 3, padding=1),
        bn=nn.BatchNorm3d(6),
        conv2=nn.Conv3d(6, 8, 3),
        fc=nn.Linear(8, 4),
    )


@case(image(), cuts="conv1 conv2 conv3", frozen="fc")
def padding_modes():
    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        return self.fc(gap(F.relu(self.conv3(x))))

    return net(
        forward,
        conv1=conv(3, 8, padding_mode="circular"),
        conv2=conv(8, 6, padding_mode="reflect"),
        conv3=conv(6, 5, padding="same", padding_mode="replicate"),
        fc=nn.Linear(5, 4),
    )


@case(image(), cuts="stem conv1", frozen="fc", tags="hard")
def option_a_shortcut():
    def forward(self, x):
        x = F.relu(self.stem(x))
        y = self.conv2(F.relu(self.conv1(x)))
        x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3))
        return self.fc(gap(F.relu(x + y)))

    return net(
        forward,
        stem=conv(3, 6),
        conv1=conv(6, 8, stride=2),
        conv2=conv(8, 12),
        fc=nn.Linear(12, 4),
    )


@case(image(), cuts="conv1 conv2", frozen="fc", tags="hard")
def blur_by_expanded_buffer():
    def forward(self, x):
        x = F.relu(self.conv1(x))
        channels = x.shape[1]
        x = F.conv2d(x, self.blur.expand(channels, 1, 3, 3), padding=1, groups=channels)
        return self.fc(gap(F.relu(self.conv2(x))))

    blur = torch.tensor([1.0, 2.0, 1.0])
    return net(
        forward,
        conv1=conv(3, 8),
        blur=torch.outer(blur, blur)[None, None] / 16,
        conv2=conv(8, 6),
        fc=nn.Linear(6, 4),
    )


@case(image(side=6), cuts="conv fc1", frozen="fc", tags="hard")
def unfold_into_linear():
    def forward(self, x):
        x = F.unfold(F.relu(self.conv(x)), 3, padding=1, stride=2).transpose(1, 2)
        return self.fc(F.relu(self.fc1(x)).mean(1))

    return net(forward, conv=conv(3, 5), fc1=nn.Linear(45, 8), fc=nn.Linear(8, 4))


@case(
    image(), cuts="lateral1 lateral2 backbone1 backbone2", frozen="fc", together="lateral1 lateral2"
)
def feature_pyramid():
    def forward(self, x):
        fine = F.relu(self.backbone1(x))
        coarse = F.relu(self.backbone2(fine))
        up = F.interpolate(self.lateral2(coarse), size=fine.shape[-2:], mode="nearest")
        return self.fc(gap(F.relu(self.lateral1(fine) + up)))

    return net(
        forward,
        backbone1=conv(3, 5),
        backbone2=conv(5, 6, stride=2),
        lateral1=conv(5, 8, 1),
        lateral2=conv(6, 8, 1),
        fc=nn.Linear(8, 4),
    )


@case(image(), cuts="stem near far whole", frozen="last")
def atrous_pyramid():
    def forward(self, x):
        x = F.relu(self.stem(x))
        whole = F.adaptive_avg_pool2d(x, 1)
        whole = F.interpolate(
            F.relu(self.whole(whole)), size=x.shape[2:], mode="bilinear", align_corners=False
        )
        return self.last(torch.cat([F.relu(self.near(x)), F.relu(self.far(x)), whole], 1))

    return net(
        forward,
        stem=conv(3, 6),
        near=conv(6, 4, 1),
        far=conv(6, 5, dilation=2, padding=2),
        whole=conv(6, 3, 1),
        last=conv(12, 2, 1),
    )


@case(image(), cuts="stem", frozen="fc", together="stem three one")
def repvgg_block():
    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.bn3(self.three(x)) + self.bn1(self.one(x)) + self.bn0(x))
        return self.fc(gap(x))

    return net(
        forward,
        stem=conv(3, 8),
        three=conv(8, 8, bias=False),
        bn3=nn.BatchNorm2d(8),
        one=conv(8, 8, 1, bias=False),
        bn1=nn.BatchNorm2d(8),
        bn0=nn.BatchNorm2d(8),
        fc=nn.Linear(8, 4),
    )


@case(image(), cuts="primary conv2", frozen="fc", together="primary cheap")
def ghost_module():
    def forward(self, x):
        x = F.relu(self.primary(x))
        x = torch.cat([x, F.relu(self.cheap(x))], 1)
        return self.fc(gap(F.relu(self.conv2(x))))

    return net(
        forward,
        primary=conv(3, 6),
        cheap=conv(6, 6, groups=6),
        conv2=conv(12, 8),
        fc=nn.Linear(8, 4),
    )


@case(image(), cuts="conv1 side conv2", frozen="fc", tags="hard")
def cross_stage_partial():
    def forward(self, x):
        keep, work = F.relu(self.conv1(x)).chunk(2, 1)
        x = torch.cat([keep, F.relu(self.side(work))], 1)
        return self.fc(gap(F.relu(self.conv2(x))))

    return net(forward, conv1=conv(3, 8), side=conv(4, 6), conv2=conv(10, 7), fc=nn.Linear(7, 4))


@case(image(), cuts="conv2", frozen="fc")
def res2net_scales():
    def forward(self, x):
        first, *rest = F.relu(self.conv1(x)).chunk(3, 1)
        done, last = [first], 0
        for part, layer in zip(rest, self.scales, strict=True):
            last = F.relu(layer(part + last))
            done.append(last)
        return self.fc(gap(F.relu(self.conv2(torch.cat(done, 1)))))

    return net(
        forward,
        conv1=conv(3, 12),
        scales=nn.ModuleList([conv(4, 4), conv(4, 4)]),
        conv2=conv(12, 8),
        fc=nn.Linear(8, 4),
    )


@case(image(), cuts="conv1", frozen="fc", together="conv1 conv2", tags="hard")
def max_unpool():
    def forward(self, x):
        x, where = F.max_pool2d(F.relu(self.conv1(x)), 2, return_indices=True)
        return self.fc(gap(F.max_unpool2d(F.relu(self.conv2(x)), where, 2)))

    return net(forward, conv1=conv(3, 8), conv2=conv(8, 8), fc=nn.Linear(8, 4))


@case(image(), cuts="conv1 conv2", frozen="fc")
def coordinates_appended():
    def forward(self, x):
        x = F.relu(self.conv1(x))
        b, _, h, w = x.shape
        rows = torch.linspace(-1, 1, h, dtype=x.dtype, device=x.device).view(1, 1, h, 1)
        x = torch.cat([x, rows.expand(b, 1, h, w)], 1)
        return self.fc(gap(F.relu(self.conv2(x))))

    return net(forward, conv1=conv(3, 6), conv2=conv(7, 8), fc=nn.Linear(8, 4))


@case(vector(10), cuts="fc up1", frozen="up2", tags="attribute")
def decoder_view():
    def forward(self, x):
        x = F.relu(self.fc(x)).view(-1, self.channels, 4, 4)
        return self.up2(F.relu(self.up1(x)))

    return net(
        forward,
        fc=nn.Linear(10, 6 * 16),
        up1=nn.ConvTranspose2d(6, 5, 4, stride=2, padding=1),
        up2=nn.ConvTranspose2d(5, 1, 3, padding=1),
        channels=6,
    )


@case(vector(10), cuts="0", frozen="3", program=True)
def decoder_unflatten():
    return nn.Sequential(nn.Linear(10, 96), nn.ReLU(), nn.Unflatten(1, (6, 4, 4)), conv(6, 2))


@case(image(), cuts="conv1", frozen="fc", together="conv1 conv2")
def stochastic_depth():
    def forward(self, x):
        x = F.dropout2d(F.relu(self.conv1(x)), 0.2, self.training)
        if not (self.training and torch.rand(()) < 0.5):
            x = x + F.relu(self.conv2(x))
        return self.fc(gap(x))

    return net(forward, conv1=conv(3, 8), conv2=conv(8, 8), fc=nn.Linear(8, 4))


@case(image(), cuts="one.conv", frozen="fc", together="one.conv two.conv")
def spatial_gate_of_one_channel():
    def block():
        def forward(self, x):
            return F.relu(self.conv(x))

        return net(forward, conv=conv(3, 8))

    def forward(self, x):
        one, two = self.one(x), self.two(x)
        gate = torch.sigmoid(self.gate(one + two))  # (batch, 1, h, w)
        return self.fc(gap(gate * one + (1 - gate) * two))

    return net(forward, one=block(), two=block(), gate=conv(8, 1), fc=nn.Linear(8, 4))
