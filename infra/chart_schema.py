"""The closed schema of the chart's values. `make chart-schema` writes charts/streamo/values.schema.json.

What `settings` may hold is read off the services' own tree.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from services.shared.settings import Settings

# The chart fills these in.
TLS_CLIENT = {"tls_ca_path", "tls_cert_path", "tls_key_path"}
FILLED = {
    "kafka": {"bootstrap_servers", "password_path", *TLS_CLIENT},
    "redis": {"url", "password_path", *TLS_CLIENT},
    "telemetry": {"otlp_endpoint", *TLS_CLIENT},
    "model": {"path"},
    "ingest": {"heartbeat_path"},
    "gateway": {"host", "port", "health_port", "tls_cert_path", "tls_key_path", "tls_client_ca_path"},
}
# Of no service.
LEFT_OUT = {"client"}

TEXT = {"type": "string"}
BOOL = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 1}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
PERCENT = {"type": "integer", "minimum": 1, "maximum": 100}
# Kubernetes' own objects: its API server knows them best.
OBJECT = {"type": "object"}
OBJECTS = {"type": "array", "items": OBJECT}
QUANTITY = {"type": ["string", "number"]}


def closed(**properties: object) -> dict:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def one_of(*values: str) -> dict:
    return {"enum": list(values)}


def component(**own: dict) -> dict:
    """Values that every component has, and its own."""
    return closed(
        **own,
        image=closed(
            repository=TEXT,
            tag={"type": "string", "not": {"const": "latest"}},
            digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
        ),
        resources=closed(
            requests={"type": "object", "additionalProperties": QUANTITY},
            limits={"type": "object", "additionalProperties": QUANTITY},
        ),
        podAnnotations={"type": "object", "additionalProperties": TEXT},
        nodeSelector={"type": "object", "additionalProperties": TEXT},
        tolerations=OBJECTS,
        affinity=OBJECT,
        topologySpreadConstraints=OBJECTS,
        priorityClassName=TEXT,
        runtimeClassName=TEXT,
        terminationGracePeriodSeconds={"type": "integer", "minimum": 0},
        allowFrom=OBJECTS,
        extraEnv={"type": "array", "items": {"type": "object", "required": ["name"]}},
    )


def scaled_component(max_unavailable: dict = QUANTITY, **by: dict) -> dict:
    """One of which there may be several pods, whose number may follow the load; `by`: what else says how."""
    return component(
        enabled=BOOL,
        replicas=COUNT,
        pdb=closed(enabled=BOOL, maxUnavailable=max_unavailable),
        autoscaling=closed(enabled=BOOL, minReplicas=COUNT, maxReplicas=COUNT, **by),
    )


def credentials() -> dict:
    return closed(passwordSecret=TEXT, caSecret=TEXT, certSecret=TEXT)


def settings() -> dict:
    made = Settings.model_json_schema()["$defs"]
    sections = {}
    for name, field in Settings.model_fields.items():
        if name in LEFT_OUT:
            continue
        properties = made[field.annotation.__name__]["properties"]
        sections[name] = closed(
            **{
                key: {k: v for k, v in value.items() if k not in ("default", "title", "format")}
                for key, value in properties.items()
                if key not in FILLED.get(name, set())
            }
        )
    return closed(**sections)


def schema() -> dict:
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart streamo",
        **closed(
            **{"global": OBJECT},
            nameOverride=TEXT,
            image=closed(
                registry=TEXT,
                prefix=TEXT,
                tag={"type": "string", "not": {"const": "latest"}},
                pullPolicy=one_of("Always", "IfNotPresent", "Never"),
                pullSecrets={"type": "array", "items": TEXT},
            ),
            settings=settings(),
            kafka=closed(
                mode=one_of("external", "strimzi"),
                bootstrapServers=TEXT,
                port=PORT,
                peers=OBJECTS,
                credentials=credentials(),
                strimzi=closed(version=TEXT, nodes=COUNT, storageSize=TEXT, storageClass=TEXT),
            ),
            redisMode=one_of("external", "inChart"),
            redisExternal=closed(
                # A password in the URL would be in a ConfigMap.
                url={"type": "string", "pattern": "^(rediss?://([^:@/]+@)?[^@/]+(/[0-9]*)?)?$"},
                port=PORT,
                peers=OBJECTS,
                credentials=credentials(),
            ),
            gatewayTls=closed(certSecret=TEXT, clientCaSecret=TEXT),
            checkpoint=closed(volume=OBJECT, subPath=TEXT),
            cameras=closed(
                allowedCIDRs={
                    "type": "array",
                    "items": {"type": "string", "pattern": "^[0-9a-fA-F.:]+/[0-9]+$"},
                },
                ports={"type": "array", "items": PORT, "minItems": 1},
            ),
            ray=closed(
                version=TEXT,
                upgradeStrategy=one_of("NewCluster", "None"),
                auth=closed(mode=one_of("token", "disabled"), existingSecret=TEXT),
                operatorPeers=OBJECTS,
                sharedMemory={"type": "string", "pattern": "^([1-9][0-9]{2,}Mi|[1-9][0-9]*Gi)$"},
            ),
            telemetry=closed(
                otlpEndpoint={"type": "string", "pattern": "^(https?://.+:[0-9]+)?$"},
                credentials=closed(caSecret=TEXT, certSecret=TEXT),
                peers=OBJECTS,
                tracesEndpoint={"type": "string", "pattern": "^(.+:[0-9]+)?$"},
            ),
            monitoring=closed(
                serviceMonitor=BOOL,
                prometheusRule=BOOL,
                board=BOOL,
                labels={"type": "object", "additionalProperties": TEXT},
            ),
            networkPolicy=closed(enabled=BOOL),
            ingest=scaled_component(targetCPUUtilizationPercentage=PERCENT),
            gateway=scaled_component(targetCPUUtilizationPercentage=PERCENT),
            rayHead=component(),
            # The chart computes with it.
            rayWorker=scaled_component(max_unavailable={"type": "integer", "minimum": 0}),
            redis=component(),
            collector=component(enabled=BOOL),
            camera=component(enabled=BOOL),
        ),
    }


if __name__ == "__main__":
    json.dump(schema(), sys.stdout, indent=1)
    print()
