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
{{- $repository := default (printf "%s/%s/%s" $shared.registry $shared.prefix .image) $given.repository -}}
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

{{/* dict: root, component. The settings of every service of ours; Redis' URL is the model's alone. */}}
{{- define "streamo.environment" -}}
envFrom:
  - configMapRef: {name: {{ include "streamo.fullname" .root }}}
{{- with .component.extraEnv }}
env: {{- toYaml . | nindent 2 }}
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
