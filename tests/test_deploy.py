from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "deploy" / "aws" / "instance.yaml"
REPOSITORY = "team/bertpress"
IMAGE = "registry.example/bertpress:0.1.0"
INPUTS = {
    "AWS::AccountId": "123456789012",
    "AWS::Region": "eu-central-1",
    "AWS::StackName": "reviews",
    "AWS::URLSuffix": "example.com",
    "ContainerMemory": "2g",
    "ImageUri": IMAGE,
    "RepositoryName": REPOSITORY,
}
COMMANDS = ("aws", "cfn-signal", "curl", "dnf", "docker", "rm", "sleep", "systemctl")


class _Loader(yaml.SafeLoader):
    """Reads `!Name value` as `{"Name": value}`."""


def _function(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {name: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _function)


@cache
def template() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.load(TEMPLATE.read_bytes(), _Loader)  # noqa: S506  it is a SafeLoader
    return parsed


def resource(name: str) -> dict[str, Any]:
    properties: dict[str, Any] = template()["Resources"][name]["Properties"]
    return properties


def launch() -> dict[str, Any]:
    data: dict[str, Any] = resource("LaunchTemplate")["LaunchTemplateData"]
    return data


def parameter_accepts(name: str, value: str) -> bool:
    return re.fullmatch(template()["Parameters"][name]["AllowedPattern"], value) is not None


def test_cfn_lint_finds_nothing() -> None:
    cfn_lint = Path(sys.executable).with_name("cfn-lint")

    result = subprocess.run([cfn_lint, TEMPLATE], capture_output=True, text=True)

    assert result.stdout == ""
    assert result.returncode == 0


def test_the_instance_is_a_t2_xlarge_unless_told_otherwise() -> None:
    assert template()["Parameters"]["InstanceType"]["Default"] == "t2.xlarge"
    assert launch()["InstanceType"] == {"Ref": "InstanceType"}


@pytest.mark.parametrize(
    "value", ["t2.xlarge", "t3.micro", "c7i.2xlarge", "m7i-flex.large", "r7a.metal-48xl"]
)
def test_x86_types_are_accepted(value: str) -> None:
    assert parameter_accepts("InstanceType", value)


@pytest.mark.parametrize("value", ["t4g.xlarge", "m7g.large", "c8gd.xlarge", "t2", "xlarge", ""])
def test_types_that_cannot_run_the_image_are_refused(value: str) -> None:
    assert not parameter_accepts("InstanceType", value)


def test_metadata_needs_a_token_and_does_not_reach_the_container() -> None:
    options = launch()["MetadataOptions"]

    assert options["HttpTokens"] == "required"
    assert options["HttpPutResponseHopLimit"] == 1


def test_the_volume_is_encrypted() -> None:
    (volume,) = launch()["BlockDeviceMappings"]

    assert volume["Ebs"]["Encrypted"] is True
    assert volume["Ebs"]["VolumeType"] == "gp3"


def test_only_the_clients_reach_only_the_service() -> None:
    (rule,) = resource("SecurityGroup")["SecurityGroupIngress"]

    assert (rule["FromPort"], rule["ToPort"], rule["IpProtocol"]) == (8000, 8000, "tcp")
    assert rule["CidrIp"] == {"Ref": "ClientCidr"}
    assert "Default" not in template()["Parameters"]["ClientCidr"]


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ("10.0.0.0/16", True),
        ("192.0.2.7/32", True),
        ("10.0.0.0/8", True),
        ("0.0.0.0/0", False),
        ("::/0", False),
    ],
)
def test_the_whole_world_is_not_a_client(value: str, accepted: bool) -> None:
    assert parameter_accepts("ClientCidr", value) is accepted


def test_the_newest_amazon_linux_2023_is_taken() -> None:
    ami = template()["Parameters"]["AmiId"]

    assert ami["Type"] == "AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>"
    assert "/al2023-ami-kernel-default-x86_64" in ami["Default"]


def test_the_role_may_nothing_unless_something_needs_it() -> None:
    sessions, _, no_sessions = resource("Role")["ManagedPolicyArns"]["If"]
    pull, _, no_pull = resource("Role")["Policies"]["If"]

    assert (sessions, no_sessions) == ("OpensSessions", {"Ref": "AWS::NoValue"})
    assert (pull, no_pull) == ("PullsFromEcr", {"Ref": "AWS::NoValue"})
    assert template()["Parameters"]["SessionManager"]["Default"] == "no"
    assert template()["Parameters"]["RepositoryName"]["Default"] == ""


def test_the_role_reads_one_repository() -> None:
    (policy,) = resource("Role")["Policies"]["If"][1]
    login, pull = policy["PolicyDocument"]["Statement"]

    assert login["Action"] == "ecr:GetAuthorizationToken"
    assert pull["Action"] == ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    assert pull["Resource"]["Sub"].endswith(":repository/${RepositoryName}")


def test_the_stack_waits_for_a_service_that_is_ready() -> None:
    assert template()["Resources"]["Instance"]["CreationPolicy"]["ResourceSignal"]["Count"] == 1


def boot(folder: Path, *, failing: str = "", **changed: str) -> tuple[int, list[str]]:
    """Run the first-boot script with each command replaced by one that notes how it was called."""
    commands, calls = folder / "bin", folder / "calls"
    commands.mkdir()
    for name in COMMANDS:
        command = commands / name
        status = 1 if name == failing else 0
        command.write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\nexit {status}\n')
        command.chmod(0o755)
    script = launch()["UserData"]["Fn::Base64"]["Sub"]
    for name, value in {**INPUTS, **changed}.items():
        script = script.replace("${" + name + "}", value)
    assert "${" not in script
    script = script.replace("/opt/aws/bin/", "")
    environment = {"PATH": f"{commands}:{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    return result.returncode, calls.read_text().splitlines()


def test_the_first_boot_runs_the_image_confined(tmp_path: Path) -> None:
    code, calls = boot(tmp_path)

    (run,) = [call for call in calls if call.startswith("docker run")]
    assert code == 0
    assert run.endswith(IMAGE)
    for flag in (
        "--read-only",
        "--cap-drop ALL",
        "--security-opt no-new-privileges:true",
        "--restart unless-stopped",
        "--memory 2g",
        "--publish 8000:8000",
    ):
        assert flag in run


def test_the_first_boot_ends_by_telling_that_the_service_is_ready(tmp_path: Path) -> None:
    _, calls = boot(tmp_path)

    assert calls[-2].endswith("http://127.0.0.1:8000/health/ready")
    assert calls[-1] == "cfn-signal --exit-code 0 --stack reviews --resource Instance --region eu-central-1"


@pytest.mark.parametrize("failing", ["dnf", "docker", "curl"])
def test_a_failed_boot_is_told_as_well(tmp_path: Path, failing: str) -> None:
    code, calls = boot(tmp_path, failing=failing)

    assert code == 1
    assert calls[-1].startswith("cfn-signal --exit-code 1 ")


def test_ecr_is_logged_in_to_and_the_password_is_not_kept(tmp_path: Path) -> None:
    _, calls = boot(tmp_path)

    login = "docker login --username AWS --password-stdin 123456789012.dkr.ecr.eu-central-1.example.com"
    assert calls.index(login) < calls.index(f"docker pull --quiet {IMAGE}")
    assert calls.count("rm --force /root/.docker/config.json") == 1


def test_another_registry_needs_no_login(tmp_path: Path) -> None:
    _, calls = boot(tmp_path, RepositoryName="")

    assert not [call for call in calls if call.startswith(("aws", "docker login"))]
