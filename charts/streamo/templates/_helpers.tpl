{{- define "streamo.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* The components below take a dict: root, name (of the component). */}}
{{- define "streamo.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "streamo.labels" -}}
{{ include "streamo.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* dict: root, component (its values), image (which of ours) */}}
{{- define "streamo.image" -}}
{{- $given := .component.image -}}
{{- $shared := .root.Values.image -}}
{{- $repository := $given.repository -}}
{{- if not $repository }}
{{- $registry := required "image.registry: the registry that you pushed our images to; none is published, the chart's README.md says how" $shared.registry }}
{{- $repository = printf "%s/%s/%s" $registry $shared.prefix .image }}
{{- end }}
{{- if $given.digest }}{{ $repository }}@{{ $given.digest }}{{ else }}{{ $repository }}:{{ default (default .root.Chart.AppVersion $shared.tag) $given.tag }}{{ end }}
{{- end }}

{{- define "streamo.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* dict: root, component, name, user. What a pod's spec has beside containers and volumes. */}}
{{- define "streamo.pod" -}}
serviceAccountName: {{ include "streamo.fullname" .root }}
automountServiceAccountToken: false
# Else a Service of the release would be told in STREAMO_... variables, which are kept for settings.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  seccompProfile: {type: RuntimeDefault}
terminationGracePeriodSeconds: {{ .component.terminationGracePeriodSeconds }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .component.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .component.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
{{- with .component.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "streamo.selector" . | nindent 8 }}
{{- end }}
{{- end }}

{{/* Takes the size of /dev/shm. What Ray may keep there: it keeps objects on disk where they might not fit. */}}
{{- define "streamo.objectStoreBytes" -}}
{{- $unit := ternary 1073741824 1048576 (hasSuffix "Gi" .) -}}
{{- div (mul 9 $unit (trimSuffix "Gi" . | trimSuffix "Mi" | int64)) 10 -}}
{{- end }}

{{/* What each Secret may hold: value of the chart: its key, and the setting that names the file. */}}
{{- define "streamo.credentialFiles" -}}
{{- if include "streamo.kafkaUsers" . }}
kafka: {passwordSecret: its user, caSecret: its cluster}
{{- else }}
kafka: {{ toJson .Values.kafka.credentials }}
{{- end }}
redis: {{ toJson .Values.redisExternal.credentials }}
gateway: {{ toJson .Values.gatewayTls }}
telemetry: {{ toJson .Values.telemetry.credentials }}
{{- end }}

{{/* dict: root, section. The settings that say where the mounted files of a section are. */}}
{{- define "streamo.credentialSettings" -}}
{{- $given := get (include "streamo.credentialFiles" .root | fromYaml) .section -}}
{{- $at := printf "/etc/streamo/%s" .section -}}
{{- if $given.passwordSecret }}
password_path: {{ $at }}/password
{{- end }}
{{- if $given.caSecret }}
tls_ca_path: {{ $at }}/ca.crt
{{- end }}
{{- if $given.clientCaSecret }}
tls_client_ca_path: {{ $at }}/ca.crt
{{- end }}
{{- if $given.certSecret }}
tls_cert_path: {{ $at }}/tls.crt
tls_key_path: {{ $at }}/tls.key
{{- end }}
{{- end }}

{{/* Whether Strimzi makes a user for each service. */}}
{{- define "streamo.kafkaUsers" -}}
{{- if and (eq .Values.kafka.mode "strimzi") (eq (default "PLAINTEXT" .Values.settings.kafka.security_protocol) "SASL_SSL") }}yes{{ end }}
{{- end }}

{{/* dict: root, user. The variable that says as whom a service speaks to Kafka, where each has a user of its own. */}}
{{- define "streamo.kafkaUser" -}}
{{- if include "streamo.kafkaUsers" .root }}
- {name: STREAMO_KAFKA__USERNAME, value: {{ include "streamo.fullname" .root }}-{{ .user }}}
{{- end }}
{{- end }}

{{/* dict: root, sections, user. Their Secrets as volumes, for pods that need them, and nobody else. */}}
{{- define "streamo.credentialVolumes" -}}
{{- $files := include "streamo.credentialFiles" .root | fromYaml -}}
{{- if include "streamo.kafkaUsers" .root }}
{{- $name := include "streamo.fullname" .root }}
{{- $_ := set $files "kafka" (dict "passwordSecret" (printf "%s-%s" $name .user) "caSecret" (printf "%s-cluster-ca-cert" $name)) }}
{{- end }}
{{- range .sections }}
{{- $given := get $files . }}
{{- $authority := or $given.caSecret $given.clientCaSecret }}
{{- if or $given.passwordSecret $authority $given.certSecret }}
- name: {{ . }}-credentials
  projected:
    defaultMode: 0440
    sources:
      {{- with $given.passwordSecret }}
      - secret: {name: {{ . }}, items: [{key: password, path: password}]}
      {{- end }}
      {{- with $authority }}
      - secret: {name: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
      {{- end }}
      {{- with $given.certSecret }}
      - secret: {name: {{ . }}, items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]}
      {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* dict: root, sections. Where those volumes are mounted. */}}
{{- define "streamo.credentialMounts" -}}
{{- $files := include "streamo.credentialFiles" .root | fromYaml -}}
{{- range .sections }}
{{- $given := get $files . }}
{{- if or $given.passwordSecret $given.caSecret $given.clientCaSecret $given.certSecret }}
- {name: {{ . }}-credentials, mountPath: /etc/streamo/{{ . }}, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{/* Refuses what no service would start with, before anything is installed. */}}
{{- define "streamo.checkSecurity" -}}
{{- $protocol := default "PLAINTEXT" .Values.settings.kafka.security_protocol }}
{{- $kafka := .Values.kafka.credentials }}
{{- if eq .Values.kafka.mode "strimzi" }}
{{- if or $kafka.passwordSecret $kafka.caSecret $kafka.certSecret }}
{{- fail "kafka.credentials: in kafka.mode: strimzi the operator makes them; leave them empty" }}
{{- end }}
{{- if and (ne $protocol "PLAINTEXT") (ne (default "" .Values.settings.kafka.sasl_mechanism) "SCRAM-SHA-512") }}
{{- fail "settings.kafka.sasl_mechanism: kafka.mode: strimzi takes SASL_SSL with SCRAM-SHA-512, or PLAINTEXT" }}
{{- end }}
{{- else if and (eq $protocol "SASL_SSL") (not $kafka.passwordSecret) }}
{{- fail "kafka.credentials.passwordSecret: settings.kafka.security_protocol is SASL_SSL, which takes a password; name its Secret" }}
{{- end }}
{{- if and (ne $protocol "SASL_SSL") $kafka.passwordSecret }}
{{- fail "kafka.credentials.passwordSecret: a password is for settings.kafka.security_protocol: SASL_SSL" }}
{{- end }}
{{- if and (eq $protocol "PLAINTEXT") (or $kafka.caSecret $kafka.certSecret) }}
{{- fail "kafka.credentials: certificates are for settings.kafka.security_protocol: SSL or SASL_SSL" }}
{{- end }}
{{- $redis := .Values.redisExternal.credentials }}
{{- if and (eq .Values.redisMode "external") (or $redis.passwordSecret $redis.caSecret $redis.certSecret) (not (hasPrefix "rediss://" .Values.redisExternal.url)) }}
{{- fail "redisExternal.url: with redisExternal.credentials it has to begin with rediss://" }}
{{- end }}
{{- $collector := .Values.telemetry.credentials }}
{{- if and (or $collector.caSecret $collector.certSecret) (not (hasPrefix "https://" .Values.telemetry.otlpEndpoint)) }}
{{- fail "telemetry.otlpEndpoint: with telemetry.credentials it has to begin with https://" }}
{{- end }}
{{- if and .Values.gatewayTls.clientCaSecret (not .Values.gatewayTls.certSecret) }}
{{- fail "gatewayTls.certSecret: gatewayTls.clientCaSecret is given, and clients show certificates over TLS alone" }}
{{- end }}
{{- end }}

{{/* dict: root, component, user. The settings of every service of ours. */}}
{{- define "streamo.environment" -}}
envFrom:
  - configMapRef: {name: {{ include "streamo.fullname" .root }}}
{{- $user := include "streamo.kafkaUser" . | trim }}
{{- if or $user .component.extraEnv }}
env:
  {{- $user | nindent 2 }}
  {{- with .component.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "streamo.checkpointMount" -}}
{{- if .Values.checkpoint.volume }}
- name: checkpoint
  mountPath: /model
  readOnly: true
  {{- with .Values.checkpoint.subPath }}
  subPath: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "streamo.checkpointVolume" -}}
{{- with .Values.checkpoint.volume }}
- name: checkpoint
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "streamo.kafka" -}}
{{- if eq .Values.kafka.mode "strimzi" -}}
{{ include "streamo.fullname" . }}-kafka-bootstrap:{{ .Values.kafka.port }}
{{- else -}}
{{ required "kafka.bootstrapServers: the brokers, or kafka.mode: strimzi" .Values.kafka.bootstrapServers }}
{{- end -}}
{{- end }}

{{- define "streamo.otlp" -}}
{{- if .Values.telemetry.otlpEndpoint }}{{ .Values.telemetry.otlpEndpoint }}
{{- else if .Values.collector.enabled }}http://{{ include "streamo.fullname" . }}-collector:4317
{{- end }}
{{- end }}

{{/* An API group that a mode needs. dict: root, api, why */}}
{{- define "streamo.needs" -}}
{{- if not (.root.Capabilities.APIVersions.Has .api) }}
{{- fail (printf "%s needs the API %s, which this cluster does not have: install its operator first (with helm template: --api-versions %s)" .why .api .api) }}
{{- end }}
{{- end }}
