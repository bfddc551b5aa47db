{{- define "plainroute.name" -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "plainroute.selector" -}}
app.kubernetes.io/name: plainroute
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "plainroute.labels" -}}
{{ include "plainroute.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}
