{{- /* Labels of everything here. */}}
{{- define "caracal.labels" -}}
app.kubernetes.io/part-of: caracal
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "caracal.image" -}}
{{ .Values.caracal.image.repository }}:{{ .Values.caracal.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* Where the API server is, for what runs before services do. */}}
{{- define "caracal.apiServerEnv" -}}
{{- with .Values.caracal.apiServer }}
{{- if .host -}}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .host | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .port | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* One of the operator's ways to find a node's address, as the agent is told it. */}}
{{- define "caracal.autodetection" -}}
{{- if .firstFound }}first-found
{{- else if .kubernetes }}kubernetes-internal-ip
{{- else if .interface }}interface={{ .interface }}
{{- else if .skipInterface }}skip-interface={{ .skipInterface }}
{{- else if .canReach }}can-reach={{ .canReach }}
{{- else if .cidrs }}cidr={{ join "," .cidrs }}
{{- end }}
{{- end }}

{{- /* Whether nodes and pods have addresses of a family: it has a pool, or a way to find a node's address is said. Called with the
family's sign, ":" or ".". */}}
{{- define "caracal.hasFamily" -}}
{{- $sign := .sign }}
{{- $has := not (empty .way) }}
{{- range .pools }}{{ if contains $sign .cidr }}{{ $has = true }}{{ end }}{{ end }}
{{- $has }}
{{- end }}

{{- /* What a container may do that is not privileged: called with a list of capabilities. */}}
{{- define "caracal.securityContext" -}}
{{- if .privileged -}}
privileged: true
{{- else -}}
capabilities:
  drop: [ALL]
  {{- with .capabilities }}
  add: {{ . | toJson }}
  {{- end }}
{{- end }}
readOnlyRootFilesystem: true
{{- end }}

{{- /* Of pods on nodes. AppArmor's usual profile for containers forbids to write below /sys/fs/bpf. */}}
{{- define "caracal.podSecurity" -}}
# The image's own user is another.
runAsUser: 0
seccompProfile:
  type: {{ .Values.caracal.privileged | ternary "Unconfined" "RuntimeDefault" }}
appArmorProfile:
  type: Unconfined
{{- end }}

{{- /* Who a node's programs are, and where their API server is. */}}
{{- define "caracal.nodeEnv" -}}
- name: NODENAME
  valueFrom: { fieldRef: { fieldPath: spec.nodeName } }
{{ include "caracal.apiServerEnv" . }}
{{- end }}
