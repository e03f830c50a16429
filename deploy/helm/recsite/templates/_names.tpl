{{- /* The release's name in each object's: "recsite" once. Short enough for "-first-studio" behind it. */ -}}
{{- define "recsite.name" -}}
{{- if contains "recsite" .Release.Name -}}{{ .Release.Name | trunc 48 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-recsite" .Release.Name | trunc 48 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- /* What a selector looks for. Never changes: Kubernetes refuses another selector for the same Deployment. */ -}}
{{- define "recsite.selector" -}}
app.kubernetes.io/name: recsite
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "recsite.labels" -}}
{{ include "recsite.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "recsite.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end -}}
