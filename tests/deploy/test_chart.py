"""The Helm chart, rendered by Helm's own library and held against Kubernetes' schemas and against the code."""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate.utils as kubernetes  # type: ignore[import-untyped]  # it ships no types
import pytest
import yaml
from django.core.management import get_commands, load_command_class
from django.urls import resolve
from helm_python import Chart, HelmError, lint

from recsite.background.heartbeats import COMPONENTS
from recsite.environment import BASE_DIR, Environment

CHART = BASE_DIR / "deploy" / "helm" / "recsite"
OLDEST, NEWEST = "1.30", "1.37"
# What the chart makes for what is installed beside Kubernetes; their schemas are not Kubernetes'.
OTHER_KINDS = {
    "Gateway": "gateway.networking.k8s.io/v1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "HealthCheckPolicy": "networking.gke.io/v1",
    "GCPBackendPolicy": "networking.gke.io/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "PodMonitoring": "monitoring.googleapis.com/v1",
    "Rules": "monitoring.googleapis.com/v1",
}
LEAST: dict[str, Any] = {
    "image": {"repository": "registry.example.com/recsite", "tag": "0.1.0"},
    "secrets": {"lane": "recsite-lane", "control": "recsite-control", "jobs": "recsite-jobs"},
    "proxies": 1,
    "lane": {"host": "recs.example.com"},
    "dashboard": {"host": "dash.example.com"},
    "networkPolicy": {
        "egress": {
            "redis": [{"to": [{"ipBlock": {"cidr": "10.1.0.3/32"}}], "ports": [{"port": 6379}]}],
            "control": [{"to": [{"ipBlock": {"cidr": "10.1.0.4/32"}}], "ports": [{"port": 5432}]}],
        }
    },
}
VARIANTS: dict[str, dict[str, Any]] = {
    "least": {},
    "everything": {
        "lane": {"autoscaling": {"enabled": False}, "priorityClassName": "serving", "nodeSelector": {"pool": "lanes"}},
        "loader": {"tolerations": [{"key": "loads", "operator": "Exists"}], "replicas": 5},
        "firstStudio": {"enabled": True, "studioName": "Aurora Games", "sources": ["gs://aurora/out/"]},
        "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": ["registry"]},
        "secrets": {"revision": "2"},
        "settings": {"RECSITE_LOG_LEVEL": "WARNING"},
        "monitoring": {"kind": "prometheus-operator", "labels": {"release": "prometheus"}, "dashboards": True},
    },
    "elsewhere": {
        "gateway": {"enabled": True, "className": "envoy", "certificateSecret": "recsite-tls", "gke": False},
        "networkPolicy": {"enabled": False},
    },
}
OVERLAYS = [(), ("nginx",), ("gke",), ("memorystore",), ("cloudsql",), ("gke", "memorystore", "cloudsql")]
CASES = {
    "+".join((variant, *overlays)): (variant, overlays)
    for variant, overlays in itertools.product(VARIANTS, OVERLAYS)
    if not (variant == "elsewhere" and ({"nginx", "gke"} & set(overlays)))
}


def merged(*layers: dict[str, Any]) -> dict[str, Any]:
    """Return values as Helm merges them: maps by key, everything else replaced."""
    whole: dict[str, Any] = {}
    for layer in layers:
        for key, value in copy.deepcopy(layer).items():
            whole[key] = (
                merged(whole[key], value) if isinstance(value, dict) and isinstance(whole.get(key), dict) else value
            )
    return whole


@functools.cache
def chart() -> Chart:
    return Chart.load(CHART)


def rendered(values: dict[str, Any], release: str = "recsite") -> list[dict[str, Any]]:
    chart().validate_schema(values)
    pages = chart().render(values, name=release, namespace="games")
    return [found for page in pages.values() for found in yaml.safe_load_all(page) if found]


@functools.cache
def case(name: str) -> list[dict[str, Any]]:
    variant, overlays = CASES[name]
    files = [yaml.safe_load((CHART / "values" / f"{overlay}.yaml").read_text()) for overlay in overlays]
    return rendered(merged(LEAST, *files, VARIANTS[variant]))


def named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    [found] = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def workloads(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = [each for each in objects if each["kind"] in {"Deployment", "Job"}]
    return {each["metadata"]["labels"]["app.kubernetes.io/component"]: each for each in found}


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def container(workload: dict[str, Any]) -> dict[str, Any]:
    [main] = pod(workload)["containers"]
    assert isinstance(main, dict)
    return main


def environment(workload: dict[str, Any], objects: list[dict[str, Any]]) -> set[str]:
    main = container(workload)
    names = {each["name"] for each in main["env"]}
    for source in main.get("envFrom", []):
        names |= set(named(objects, "ConfigMap", source["configMapRef"]["name"])["data"])
    return names


def from_secret(workload: dict[str, Any]) -> dict[str, set[str]]:
    read: dict[str, set[str]] = {}
    for each in container(workload)["env"]:
        if "valueFrom" in each:
            read.setdefault(each["valueFrom"]["secretKeyRef"]["name"], set()).add(each["name"])
    return read


@pytest.fixture(params=CASES)
def objects(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return case(request.param)


@pytest.fixture(scope="module")
def schemas_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes, "schema_contents", functools.cache(kubernetes.schema_contents))
        yield


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_objects__of_every_case__fit_kubernetes_schemas(version: str, schemas_read_once: None) -> None:
    once = {json.dumps(each, sort_keys=True): each for name in CASES for each in case(name)}
    for each in once.values():
        if each["kind"] in OTHER_KINDS:
            assert each["apiVersion"] == OTHER_KINDS[each["kind"]]
        else:
            kubernetes.validate(each, version, strict=True)


def test_lint__of_the_chart__finds_nothing() -> None:
    report = lint(CHART, LEAST, strict=True)
    assert [each for each in report["messages"] if each["severity"] > 1] == []
    assert not report["errors"]


def test_names__in_every_case__are_unique_and_short(objects: list[dict[str, Any]]) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 63 for _, name in names)


def test_names__under_another_release__carry_both() -> None:
    assert {each["metadata"]["name"] for each in rendered(LEAST, "games")} >= {
        "games-recsite-lane",
        "games-recsite-migrate",
    }


def test_processes__in_every_case__are_these(objects: list[dict[str, Any]]) -> None:
    assert set(workloads(objects)) - {"first-studio"} == {"lane", "dashboard", "worker", "loader", "beat", "migrate"}


def test_pods__in_every_case__run_with_nothing_they_do_not_need(objects: list[dict[str, Any]]) -> None:
    accounts = {each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount"}
    for workload in workloads(objects).values():
        spec = pod(workload)
        assert spec["automountServiceAccountToken"] is False
        assert spec["serviceAccountName"] in accounts
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for each in spec["containers"] + spec.get("initContainers", []):
            assert each["securityContext"]["readOnlyRootFilesystem"] is True
            assert each["securityContext"]["allowPrivilegeEscalation"] is False
            assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert each["resources"]["requests"]
            assert each["resources"]["limits"]["memory"]
            assert not each["image"].endswith(":latest")


def test_var__of_every_pod__is_its_own_and_bounded(objects: list[dict[str, Any]]) -> None:
    for workload in workloads(objects).values():
        [var] = [each for each in pod(workload)["volumes"] if each["name"] == "var"]
        assert var["emptyDir"]["sizeLimit"]
        mounts = {each["mountPath"]: each["name"] for each in container(workload)["volumeMounts"]}
        settings = {each["name"]: each.get("value") for each in container(workload)["env"]}
        if "envFrom" in container(workload):
            settings |= named(objects, "ConfigMap", "recsite")["data"]
        assert mounts[settings["RECSITE_VAR_DIR"]] == "var"
        assert set(mounts.values()) == {each["name"] for each in pod(workload)["volumes"]}


def test_settings__in_every_case__exist_and_are_read_from_somewhere(objects: list[dict[str, Any]]) -> None:
    known = {f"RECSITE_{name.upper()}" for name in Environment.model_fields}
    for component, workload in workloads(objects).items():
        names = environment(workload, objects)
        assert names - {"RECSITE_FIRST_PASSWORD"} <= known, component
        needed = {f"RECSITE_{name.upper()}" for name, field in Environment.model_fields.items() if field.is_required()}
        assert needed <= names, component


def test_settings__of_the_schema__are_all_that_are_neither_secret_nor_the_charts_own() -> None:
    listed = set(json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]["properties"])
    given = set().union(*(environment(each, case("least")) for each in workloads(case("least")).values()))
    # What no pod of the chart has a use for: the image says the last two itself.
    others = {"RECSITE_DEBUG", "RECSITE_STATIC_ROOT", "RECSITE_COMMIT"}
    known = {f"RECSITE_{name.upper()}" for name in Environment.model_fields}
    assert listed == known - given - others


def test_settings__as_they_are_rendered__are_valid() -> None:
    data = named(case("least+cloudsql"), "ConfigMap", "recsite")["data"]
    read = Environment(
        _env_file=BASE_DIR / "tests" / "test.env",  # type: ignore[call-arg]  # pydantic-settings' own argument
        **{name.removeprefix("RECSITE_").lower(): value for name, value in data.items()},
    )
    assert (read.allowed_hosts, read.csrf_trusted_origins) == (["dash.example.com"], ["https://dash.example.com"])
    assert (read.serving_url, read.proxies) == ("https://recs.example.com", 1)
    assert read.bigquery_project == "my-project"


def test_secrets__of_a_lane__are_what_it_needs_and_its_own(objects: list[dict[str, Any]]) -> None:
    found = workloads(objects)
    assert from_secret(found["lane"]) == {
        "recsite-lane": {
            "RECSITE_SECRET_KEY",
            "RECSITE_TOKEN_MASTER_KEYS",
            "RECSITE_SEAL_KEYS",
            "RECSITE_SNAPSHOT_PUBLIC_KEYS",
            "RECSITE_REDIS_URL",
        }
    }
    for component in ("dashboard", "worker", "loader", "beat"):
        assert set(from_secret(found[component])) == {"recsite-control"}
    assert set(from_secret(found["migrate"])) == {"recsite-jobs"}
    assert "RECSITE_SNAPSHOT_PRIVATE_KEY" not in environment(found["migrate"], objects)


def test_commands__of_every_process__exist_with_these_options(objects: list[dict[str, Any]]) -> None:
    for workload in workloads(objects).values():
        program, command, *options = container(workload)["command"]
        if program != "recsite":
            assert (program, command) in {("granian", "recsite.wsgi:application"), ("celery", "--app=recsite")}
            continue
        parser = load_command_class(get_commands()[command], command).create_parser("recsite", command)
        assert isinstance(parser.parse_args(options), argparse.Namespace)


def test_loader__with_a_share_of_the_processor__does_not_yield() -> None:
    loader = container(workloads(case("least"))["loader"])
    assert {"name": "RECSITE_LOAD_YIELDS", "value": "false"} in loader["env"]
    assert "--queues=loads" in loader["command"]
    assert pod(workloads(case("least"))["loader"])["terminationGracePeriodSeconds"] == 1800


def test_lane__as_it_is_rendered__has_one_worker_and_goes_slowly() -> None:
    lane = workloads(case("least"))["lane"]
    command = dict(each.removeprefix("--").split("=") for each in container(lane)["command"][2:])
    ports = {each["name"]: each["containerPort"] for each in container(lane)["ports"]}
    assert (command["workers"], command["host"]) == ("1", "0.0.0.0")  # noqa: S104 - a pod's own address
    assert (int(command["port"]), int(command["metrics-port"])) == (ports["http"], ports["metrics"])
    assert lane["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    # A worker is gone within 17 s of the end of that.
    assert pod(lane)["terminationGracePeriodSeconds"] >= int(command["drain-seconds"]) + 17
    # Longer than Google's balancer keeps a connection.
    assert int(command["keep-alive-seconds"]) > 600
    assert "replicas" not in lane["spec"]


def test_probes__of_lane_and_dashboard__ask_what_is_there(objects: list[dict[str, Any]]) -> None:
    for component in ("lane", "dashboard"):
        main = container(workloads(objects)[component])
        ports = {each["name"] for each in main["ports"]}
        paths = {kind: main[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
        assert [paths[kind]["path"] for kind in paths] == ["/healthz", "/readyz", "/healthz"]
        assert all(each["port"] in ports and resolve(each["path"]) for each in paths.values())


def test_probes__in_the_background__ask_the_process_for_its_own_sign_of_life(objects: list[dict[str, Any]]) -> None:
    for component in COMPONENTS:
        main = container(workloads(objects)[component])
        for kind in ("startup", "liveness"):
            program, command, *arguments = main[f"{kind}Probe"]["exec"]["command"]
            assert (program, command) == ("recsite", "healthy")
            parser = load_command_class(get_commands()[command], command).create_parser("recsite", command)
            assert parser.parse_args(arguments).component == component
        # Kubernetes' own default, a second, is too short for a process to start in.
        assert main["livenessProbe"]["timeoutSeconds"] >= 10


def test_beat__in_every_case__is_one(objects: list[dict[str, Any]]) -> None:
    spec = workloads(objects)["beat"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_migration__in_every_case__runs_before_the_new_processes_and_needs_nothing_of_the_release(
    objects: list[dict[str, Any]],
) -> None:
    job = named(objects, "Job", "recsite-migrate")
    account = named(objects, "ServiceAccount", pod(job)["serviceAccountName"])
    for each in (job, account):
        assert each["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert each["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation"
    weights = [int(each["metadata"]["annotations"]["helm.sh/hook-weight"]) for each in (account, job)]
    assert weights == sorted(set(weights))
    assert "envFrom" not in container(job)


def test_selectors__in_every_case__find_their_pods_and_never_change(objects: list[dict[str, Any]]) -> None:
    labels = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in workloads(objects).items()}
    for each in objects:
        selector = each.get("spec", {}).get("selector", {}) or each.get("spec", {}).get("podSelector", {})
        wanted = selector.get("matchLabels", selector)
        if not wanted or wanted["app.kubernetes.io/component"] == "first-studio":
            continue
        component = wanted["app.kubernetes.io/component"]
        assert wanted.items() <= labels[component].items()
        assert set(wanted) == {f"app.kubernetes.io/{part}" for part in ("name", "instance", "component")}


def test_network__of_a_lane__is_redis_and_names() -> None:
    policy = named(case("least"), "NetworkPolicy", "recsite-lane")["spec"]
    names, redis = policy["egress"]
    assert {each["port"] for each in names["ports"]} == {53}
    assert [redis] == LEAST["networkPolicy"]["egress"]["redis"]
    by_port = {rule["ports"][0]["port"]: rule["from"] for rule in policy["ingress"]}
    assert by_port[9101] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    assert set(by_port) == {8001, 9101}
    service = named(case("least"), "Service", "recsite-lane")
    assert [each["targetPort"] for each in service["spec"]["ports"]] == ["http"]


def test_network__of_every_process__has_a_policy_or_none_has() -> None:
    for name in CASES:
        policies = {each["metadata"]["name"] for each in case(name) if each["kind"] == "NetworkPolicy"}
        needed = {f"recsite-{component}" for component in workloads(case(name))}
        assert needed <= policies or not policies


def test_annotations__when_a_setting_or_a_secret_changes__replace_the_pods() -> None:
    def annotations(**changed: Any) -> Any:
        return workloads(rendered(merged(LEAST, changed)))["lane"]["spec"]["template"]["metadata"]["annotations"]

    assert annotations() == annotations()
    assert annotations() != annotations(settings={"RECSITE_LOG_LEVEL": "ERROR"})
    assert annotations() != annotations(secrets={"revision": "2"})


@pytest.mark.parametrize("overlays", ["everything", "least+gke"])
def test_rules__of_the_chart__are_those_of_the_repository(overlays: str) -> None:
    [rules] = [each for each in case(overlays) if each["kind"] in {"PrometheusRule", "Rules"}]
    assert rules["spec"] == yaml.safe_load((BASE_DIR / "deploy" / "alerts" / "rules.yaml").read_text())


def test_dashboards__of_the_chart__are_those_of_the_repository() -> None:
    found = named(case("everything"), "ConfigMap", "recsite-grafana")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    folder = BASE_DIR / "deploy" / "grafana" / "dashboards"
    assert found["data"] == {path.name: path.read_text() for path in folder.glob("*.json")} != {}
    assert not [each for each in case("least") if each["metadata"]["name"] == "recsite-grafana"]


def test_jobs_of_metrics__are_those_that_rules_name() -> None:
    monitors = [each for each in case("everything") if each["kind"] == "PodMonitor"]
    jobs = {each["spec"]["podMetricsEndpoints"][0]["relabelings"][0]["replacement"] for each in monitors}
    google = {each["metadata"]["name"] for each in case("least+gke") if each["kind"] == "PodMonitoring"}
    rules = (CHART / "files" / "rules.yaml").read_text()
    assert jobs == google == {"recsite-lane", "recsite-dashboard"}
    assert all(f'job="{job}"' in rules for job in ("recsite-lane",))


@pytest.mark.parametrize("name", ["least+nginx", "least+gke", "elsewhere"])
def test_entrance__of_each_kind__has_tls_and_reaches_services(name: str) -> None:
    objects = case(name)
    services = {each["metadata"]["name"] for each in objects if each["kind"] == "Service"}
    if name == "least+nginx":
        for each in (each for each in objects if each["kind"] == "Ingress"):
            [rule] = each["spec"]["rules"]
            assert each["spec"]["tls"][0]["hosts"] == [rule["host"]]
            assert rule["http"]["paths"][0]["backend"]["service"]["name"] in services
        return
    gateway = named(objects, "Gateway", "recsite")
    listeners = {each["name"]: each for each in gateway["spec"]["listeners"]}
    certificates = gateway["metadata"].get("annotations") or {}
    for each in (each for each in objects if each["kind"] == "HTTPRoute"):
        [parent] = each["spec"]["parentRefs"]
        listener = listeners[parent["sectionName"]]
        [rule] = each["spec"]["rules"]
        if "backendRefs" in rule:
            assert listener["protocol"] == "HTTPS"
            assert "networking.gke.io/certmap" in certificates or listener["tls"]["certificateRefs"]
            assert rule["backendRefs"][0]["name"] in services
        else:
            assert rule["filters"][0]["requestRedirect"]["scheme"] == "https"


def test_health_checks__of_googles_balancer__ask_the_pods_ports() -> None:
    objects = case("least+gke")
    for each in (each for each in objects if each["kind"] == "HealthCheckPolicy"):
        component = each["metadata"]["labels"]["app.kubernetes.io/component"]
        ports = {port["containerPort"] for port in container(workloads(objects)[component])["ports"]}
        check = each["spec"]["default"]["config"]["httpHealthCheck"]
        assert check["port"] in ports
        assert check["requestPath"] == "/readyz"


def test_cloud_sql__with_its_overlay__has_a_proxy_beside_whatever_has_a_database() -> None:
    for component, workload in workloads(case("everything+cloudsql")).items():
        proxies = [each for each in pod(workload).get("initContainers", []) if each["restartPolicy"] == "Always"]
        assert len(proxies) == (component != "lane")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"secrets": {"lane": ""}}, "/secrets/lane"),
        ({"secrets": {"control": None}}, "control"),
        ({"secrets": {"control": "recsite-lane"}}, "three Secrets"),
        ({"proxies": None}, "proxies"),
        ({"proxies": 0}, "/proxies"),
        ({"image": {"tag": "latest"}}, "/image/tag"),
        ({"image": {"repository": ""}}, "/image/repository"),
        ({"beat": {"replicas": 2}}, "/beat/replicas"),
        ({"lane": {"persistentVolumeClaim": "var"}}, "persistentVolumeClaim"),
        ({"lane": {"workers": 4}}, "workers"),
        ({"lane": {"varSize": ""}}, "/lane/varSize"),
        ({"lane": {"host": ""}}, "/lane/host"),
        ({"dashboard": {"host": "recs.example.com"}}, "must differ"),
        ({"settings": {"RECSITE_SECRET_KEY": "in the open"}}, "RECSITE_SECRET_KEY"),
        ({"settings": {"RECSITE_LOGLEVEL": "INFO"}}, "RECSITE_LOGLEVEL"),
        ({"gateway": {"enabled": True}}, "certificateMap"),
        ({"gateway": {"enabled": True, "certificateMap": "m"}, "ingress": {"enabled": True}}, "not both"),
        ({"networkPolicy": {"egress": {"redis": []}}}, "where Redis is"),
        ({"networkPolicy": {"egress": {"control": []}}}, "where the database is"),
        ({"firstStudio": {"enabled": True}}, "studioName"),
        ({"cloudSql": {"image": "cloud-sql-proxy:latest"}}, "/cloudSql/image"),
        ({"lane": {"autoscaling": {"min": 5, "max": 2}}}, "autoscaling.min"),
    ],
)
def test_values__that_would_hurt__are_refused_by_name(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(HelmError) as refused:
        rendered(merged(LEAST, changed))
    assert words in str(refused.value)


def test_values__of_the_chart_alone__are_refused() -> None:
    with pytest.raises(HelmError, match="repository"):
        rendered({})


def test_files__of_the_chart__lie_where_the_repository_keeps_them() -> None:
    assert Path(CHART / "files" / "rules.yaml").resolve() == BASE_DIR / "deploy" / "alerts" / "rules.yaml"
    assert Path(CHART / "files" / "grafana").resolve() == BASE_DIR / "deploy" / "grafana" / "dashboards"
