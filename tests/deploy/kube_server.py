"""A Kubernetes API server and its etcd, as processes on this machine: objects are stored and judged, nothing acts on
them."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import requests
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from services.local.ports import HOST, free_ports
from services.local.service_process import ServiceProcess

JSON = dict[str, object]
# Until both processes are there; three seconds on a machine with nothing else to do.
_START_TIMEOUT_S = 90.0


class Refused(Exception):
    """The API server's own words."""


class KubeServer:
    """Use as a context manager. `binaries` holds kube-apiserver and etcd; everything else is under `directory`."""

    def __init__(self, binaries: Path, directory: Path) -> None:
        self._etcd_port, self._peer_port, self._port = free_ports(3)
        self._token = secrets.token_hex(16)
        self._certificate = directory / "apiserver.crt"
        self.kubeconfig = directory / "kubeconfig"
        (directory / "tokens.csv").write_text(f"{self._token},admin,admin,system:masters\n")
        key = directory / "accounts.key"
        key.write_bytes(
            rsa.generate_private_key(65537, 2048).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        client, peer = f"http://{HOST}:{self._etcd_port}", f"http://{HOST}:{self._peer_port}"
        self._etcd = ServiceProcess(
            "etcd",
            [
                str(binaries / "etcd"),
                f"--data-dir={directory / 'etcd'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
            directory / "etcd.log",
            ready=lambda: self._answers(f"{client}/health"),
            ready_timeout_s=_START_TIMEOUT_S,
        )
        self._server = ServiceProcess(
            "kube-apiserver",
            [
                str(binaries / "kube-apiserver"),
                f"--etcd-servers={client}",
                f"--bind-address={HOST}",
                f"--secure-port={self._port}",
                f"--cert-dir={directory}",
                f"--token-auth-file={directory / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.96.0.0/16",
                # It wants a token for each account, which a controller would make.
                "--disable-admission-plugins=ServiceAccount",
            ],
            directory / "apiserver.log",
            ready=lambda: self._answers(f"https://{HOST}:{self._port}/readyz"),
            ready_timeout_s=_START_TIMEOUT_S,
        )
        self._session = requests.Session()
        # Neither a proxy nor another's certificates: it is on this machine.
        self._session.trust_env = False
        self._session.headers["Authorization"] = f"Bearer {self._token}"
        self._paths: dict[tuple[str, str], tuple[str, bool]] = {}

    def __enter__(self) -> Self:
        self._etcd.start()
        try:
            self._server.start()
        except BaseException:
            self._etcd.stop()
            raise
        self._session.verify = str(self._certificate)
        self.kubeconfig.write_text(yaml.safe_dump(self._config()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()
        self._server.stop()
        self._etcd.stop()

    def create(
        self, made: Mapping[str, object], namespace: str = "default", dry_run: bool = False
    ) -> list[str]:
        """Under strict validation; what the server warned of. Raises Refused."""
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        answer = self._session.post(self._url(made, namespace), params=query, json=made, timeout=30)
        if answer.status_code != 201:
            raise Refused(answer.json().get("message", answer.text))
        return [answer.headers["Warning"]] if "Warning" in answer.headers else []

    def listed(self, api_version: str, kind: str, namespace: str, selector: str = "") -> list[dict]:
        """The objects of a kind, by label."""
        one = {"apiVersion": api_version, "kind": kind}
        answer = self._session.get(self._url(one, namespace), params={"labelSelector": selector}, timeout=30)
        answer.raise_for_status()
        return list(answer.json()["items"])

    def report_pod(self, name: str, namespace: str, phase: str) -> None:
        """What a kubelet would."""
        answer = self._session.patch(
            f"{self._group('v1')}/namespaces/{namespace}/pods/{name}/status",
            json={"status": {"phase": phase}},
            headers={"Content-Type": "application/merge-patch+json"},
            timeout=30,
        )
        answer.raise_for_status()

    def serves(self, api_version: str, kind: str) -> bool:
        """Whether it knows the kind: a new definition takes a moment."""
        return self._find(api_version, kind) is not None

    def _url(self, made: Mapping[str, object], namespace: str) -> str:
        api_version, kind = str(made["apiVersion"]), str(made["kind"])
        found = self._paths.get((api_version, kind)) or self._find(api_version, kind)
        if found is None:
            raise Refused(f"the server has no {kind} of {api_version}")
        self._paths[api_version, kind] = found
        plural, is_namespaced = found
        scope = f"/namespaces/{namespace}" if is_namespaced else ""
        return f"{self._group(api_version)}{scope}/{plural}"

    def _group(self, api_version: str) -> str:
        return f"https://{HOST}:{self._port}/{'apis' if '/' in api_version else 'api'}/{api_version}"

    def _find(self, api_version: str, kind: str) -> tuple[str, bool] | None:
        answer = self._session.get(self._group(api_version), timeout=30)
        for resource in answer.json().get("resources", ()) if answer.ok else ():
            if resource["kind"] == kind and "/" not in resource["name"]:
                return resource["name"], resource["namespaced"]
        return None

    def _answers(self, url: str) -> bool:
        try:
            return self._session.get(url, verify=str(self._certificate), timeout=5).ok
        except (OSError, requests.RequestException):  # also while the certificate is not there yet
            return False

    def _config(self) -> JSON:
        cluster = {"server": f"https://{HOST}:{self._port}", "certificate-authority": str(self._certificate)}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": self._token}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "admin"}}],
            "current-context": "here",
        }
