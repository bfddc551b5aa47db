{{- /* The value of the label app.kubernetes.io/name. */ -}}
{{- define "plainroute.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- /* The name of objects. With -uninstall appended it is a Job's name, which is limited to 63 characters. */ -}}
{{- define "plainroute.fullname" -}}
{{- $name := include "plainroute.name" . -}}
{{- $release := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $release .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "plainroute.selector" -}}
app.kubernetes.io/name: {{ include "plainroute.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* Commands find agents by these, whatever the names of the release and nameOverride. */ -}}
{{- define "plainroute.podLabels" -}}
{{ include "plainroute.selector" . }}
app.kubernetes.io/component: agent
app.kubernetes.io/part-of: plainroute
{{- end -}}

{{- define "plainroute.common" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "plainroute.labels" -}}
{{ include "plainroute.podLabels" . }}
{{ include "plainroute.common" . }}
{{- end -}}

{{- define "plainroute.uninstallPodLabels" -}}
app.kubernetes.io/name: {{ include "plainroute.name" . }}-uninstall
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: uninstall
app.kubernetes.io/part-of: plainroute
{{- end -}}

{{- define "plainroute.uninstallLabels" -}}
{{ include "plainroute.uninstallPodLabels" . }}
{{ include "plainroute.common" . }}
{{- end -}}

{{- /* The value of --masquerade: true, false, ipv4 or ipv6. */ -}}
{{- define "plainroute.masquerade" -}}
{{- $families := .Values.masquerade -}}
{{- if not (kindIs "map" $families) -}}
{{- $families = dict "ipv4" .Values.masquerade "ipv6" .Values.masquerade -}}
{{- end -}}
{{- if eq $families.ipv4 $families.ipv6 -}}
{{- $families.ipv4 -}}
{{- else -}}
{{- ternary "ipv4" "ipv6" $families.ipv4 -}}
{{- end -}}
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
