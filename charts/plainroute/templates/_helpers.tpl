{{- define "plainroute.name" -}}
{{- $release := ternary .Release.Name (printf "%s-plainroute" .Release.Name) (contains "plainroute" .Release.Name) -}}
{{- default $release .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "plainroute.selector" -}}
app.kubernetes.io/name: plainroute
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "plainroute.common" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "plainroute.labels" -}}
app.kubernetes.io/name: plainroute
{{ include "plainroute.common" . }}
{{- end -}}

{{- define "plainroute.image" -}}
{{- if .Values.image.digest -}}
{{ printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else -}}
{{ printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end -}}
{{- end -}}

{{- define "plainroute.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "plainroute.apiServer" -}}
{{- with .Values.k8sServiceHost }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ . | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ $.Values.k8sServicePort | quote }}
{{- end }}
{{- end -}}

{{- define "plainroute.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
{{- end -}}
