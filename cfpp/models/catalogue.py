"""Every file from elsewhere that this project can use: what for, where it is published, its sha256.

torchvision and pytorch-fid put the first digits of the sha256 into the file's name; the whole digests, and
those of the other files, are what packagers of the same files have published.
"""

from cfpp.models.external import ExternalFile

_FACEXLIB = "https://github.com/xinntao/facexlib/releases/download"

LPIPS_ALEX = (
    ExternalFile(
        name="alexnet-owt-7be5be79.pth",
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        label="LPIPS-alex",
        serves="metric lpips_alex",
        size=244_408_911,
        url="torchvision:AlexNet_Weights.IMAGENET1K_V1",
        licence="BSD-3-Clause (torchvision)",
    ),
)
LPIPS_VGG = (
    ExternalFile(
        name="vgg16-397923af.pth",
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        label="LPIPS-vgg",
        serves="metric lpips_vgg",
        size=553_433_881,
        url="torchvision:VGG16_Weights.IMAGENET1K_V1",
        licence="BSD-3-Clause (torchvision)",
    ),
)
LPIPS_SQUEEZE = (
    ExternalFile(
        name="squeezenet1_1-b8a52dc0.pth",
        sha256="b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
        label="LPIPS-squeeze",
        serves="metric lpips; perceptual loss",
        size=4_958_839,
        url="torchvision:SqueezeNet1_1_Weights.IMAGENET1K_V1",
        licence="BSD-3-Clause (torchvision)",
    ),
    ExternalFile(
        name="squeezenet1_1_int8_dequantised.pth",
        sha256="6d91a8af5796416872ac410c384d4093afffc922ccdcea65662b4ea996177b53",
        label="LPIPS-squeeze (int8)",
        serves="stands in for squeezenet1_1; 2 % low on a published example",
        size=4_959_915,
    ),
)
ARCFACE = (
    ExternalFile(
        name="recognition_arcface_ir_se50.pth",
        sha256="a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
        label="ArcFace IR-SE50 (facexlib), 512-d",
        serves="metrics identity, angle",
        size=175_367_323,
        url=f"{_FACEXLIB}/v0.1.0/recognition_arcface_ir_se50.pth",
        licence="MIT (InsightFace_Pytorch, facexlib); trained on MS1M",
    ),
)
MOBILEFACENET = (
    ExternalFile(
        name="mobilefacenet_112x96.onnx",
        sha256="128ec2e51e496334f1c0f7853896b77365471f027942fa29e5cc513d7becef3d",
        label="MobileFaceNet, 128-d",
        serves="metrics identity, angle, without ArcFace",
        size=3_983_099,
    ),
)
FAN = (
    ExternalFile(
        name="alignment_WFLW_4HG.pth",
        sha256="bbfd137307a4c7debd5c283b9b0ce539466cee417ac0a155e184d857f9f2899c",
        label="FAN (facexlib), 98 points mapped to 68",
        serves="metrics landmark_hq, landmark_id",
        size=193_670_248,
        url=f"{_FACEXLIB}/v0.1.0/alignment_WFLW_4HG.pth",
        licence="MIT (facexlib); trained on WFLW",
    ),
)
PFLD = (
    ExternalFile(
        name="pfld_68.onnx",
        sha256="7d7bbd5c6a1d9272e58d9773898284a1905d872eba9a662df9b5f20f1ba6f83e",
        label="PFLD, 68 points",
        serves="metrics landmark_hq, landmark_id, without FAN",
        size=2_987_921,
    ),
)
RETINAFACE_RESNET50 = (
    ExternalFile(
        name="detection_Resnet50_Final.pth",
        sha256="6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
        label="RetinaFace ResNet-50 (facexlib)",
        serves="finding faces in photographs",
        size=109_497_761,
        url=f"{_FACEXLIB}/v0.1.0/detection_Resnet50_Final.pth",
        licence="MIT (facexlib); trained on WIDER FACE",
    ),
)
RETINAFACE_MOBILE = (
    ExternalFile(
        name="detection_mobilenet0.25_Final.pth",
        sha256="2979b33ffafda5d74b6948cd7a5b9a7a62f62b949cef24e95fd15d2883a65220",
        label="RetinaFace mobile0.25 (facexlib)",
        serves="finding faces in photographs, 30 times smaller",
        size=1_789_735,
        url=f"{_FACEXLIB}/v0.1.0/detection_mobilenet0.25_Final.pth",
        licence="MIT (facexlib); trained on WIDER FACE",
    ),
    ExternalFile(  # of the same size, but other bytes
        name="detection_mobilenet0.25_Final.pth",
        sha256="38ec7bb3c9cbfe2f40edabc05fab970a6d648747cbc534092be85d5eb9b37ed0",
        label="RetinaFace mobile0.25 (another copy)",
        serves="finding faces in photographs, 30 times smaller",
        size=1_789_735,
    ),
)
PARSENET = (
    ExternalFile(
        name="parsing_parsenet.pth",
        sha256="3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
        label="ParseNet (facexlib)",
        serves="parsing faces; no stage needs it",
        size=85_331_193,
        url=f"{_FACEXLIB}/v0.2.2/parsing_parsenet.pth",
        licence="MIT (facexlib); trained on CelebAMask-HQ, non-commercial",
    ),
)
INCEPTION = (
    ExternalFile(
        name="pt_inception-2015-12-05-6726825d.pth",
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        label="Inception 2015-12-05, 2048-d",
        serves="FID and KID",
        size=95_628_359,
        url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        licence="Apache-2.0 (TensorFlow, pytorch-fid)",
    ),
)
NIQE = (
    ExternalFile(
        name="niqe_pris_params.npz",
        sha256="2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296",
        label="NIQE, BasicSR's parameters",
        serves="metric niqe",
        size=11_850,
        url="https://raw.githubusercontent.com/XPixelGroup/BasicSR/v1.4.2/basicsr/metrics/"
        "niqe_pris_params.npz",
        licence="Apache-2.0 (BasicSR)",
    ),
)
CODEFORMER = (
    ExternalFile(
        name="codeformer.pth",
        sha256="1009e537e0c2a07d4cabce6355f53cb66767cd4b4297ec7a4a64ca4b8a5684b7",
        label="CodeFormer v0.1.0",
        serves="cfpp prior import",
        size=376_637_898,
        url="https://github.com/sczhou/CodeFormer/releases/download/v0.1.0/codeformer.pth",
        licence="S-Lab License 1.0 (non-commercial)",
    ),
)

CATALOGUE = (
    *LPIPS_ALEX,
    *LPIPS_VGG,
    *LPIPS_SQUEEZE,
    *ARCFACE,
    *MOBILEFACENET,
    *FAN,
    *PFLD,
    *RETINAFACE_RESNET50,
    *RETINAFACE_MOBILE,
    *PARSENET,
    *INCEPTION,
    *NIQE,
    *CODEFORMER,
)
