{{/* The name of all objects: the release, and the chart if the release is not named after it. */}}
{{- define "jobgateway.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "jobgateway.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "jobgateway.labels" -}}
{{ include "jobgateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "jobgateway.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "jobgateway.tlsSecret" -}}
{{ .Values.tls.secretName | default (printf "%s-tls" (include "jobgateway.name" .)) }}
{{- end -}}

{{- define "jobgateway.stateSecret" -}}
{{ .Values.state.secretName | default (printf "%s-state" (include "jobgateway.name" .)) }}
{{- end -}}

{{/* The settings, as the data of a ConfigMap. */}}
{{- define "jobgateway.settings" -}}
{{- $settings := dict
  "JOBGATEWAY_UPSTREAM_URL" .Values.upstreamUrl
  "JOBGATEWAY_LISTEN" "0.0.0.0:50051"
  "JOBGATEWAY_ADMIN_LISTEN" "0.0.0.0:9464"
  "JOBGATEWAY_ALLOW_PLAINTEXT" (not .Values.tls.enabled)
  "JOBGATEWAY_DRAIN_GRACE_SECONDS" .Values.drainGraceSeconds
-}}
{{- if .Values.tls.enabled -}}
{{- $_ := set $settings "JOBGATEWAY_TLS_CERT_FILE" "/etc/jobgateway/tls/tls.crt" -}}
{{- $_ := set $settings "JOBGATEWAY_TLS_KEY_FILE" "/etc/jobgateway/tls/tls.key" -}}
{{- if .Values.tls.clientCa -}}
{{- $_ := set $settings "JOBGATEWAY_TLS_CLIENT_CA_FILE" "/etc/jobgateway/tls/ca.crt" -}}
{{- end -}}
{{- end -}}
{{- if eq .Values.state.store "redis" -}}
{{- $_ := set $settings "JOBGATEWAY_STATE_KEY_FILE" "/etc/jobgateway/state/key" -}}
{{- else if eq .Values.state.store "sqlite" -}}
{{- $_ := set $settings "JOBGATEWAY_STATE_URL" "sqlite:///var/lib/jobgateway/state.db" -}}
{{- end -}}
{{- range $name, $value := merge $settings .Values.settings }}
{{ $name }}: {{ include "jobgateway.text" $value | quote }}
{{- end -}}
{{- end -}}

{{/* A value as text. Helm reads numbers as floats, of which a million would become 1e+06. */}}
{{- define "jobgateway.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{/* Values that exclude each other. values.schema.json checks each one alone. */}}
{{- define "jobgateway.check" -}}
{{- if ne .Values.state.store "redis" -}}
{{- if .Values.autoscaling.enabled -}}
{{- fail (printf "autoscaling.enabled: several replicas need a shared store of request_ids (state.store is %s); set state.store=redis" .Values.state.store) -}}
{{- end -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- fail (printf "replicas: %v replicas need a shared store of request_ids (state.store is %s); set state.store=redis, or replicas=1" .Values.replicas .Values.state.store) -}}
{{- end -}}
{{- end -}}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas: %v is above autoscaling.maxReplicas (%v)" .Values.autoscaling.minReplicas .Values.autoscaling.maxReplicas) -}}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.enabled) -}}
{{- fail "tls.certManager.enabled: needs tls.enabled=true" -}}
{{- end -}}
{{- end -}}
