{{/* What the Deployment and the StatefulSet have in common. */}}
{{- define "jobgateway.workload" -}}
# A pod counts as available when the DNS record of the headless Service, which may be cached for 30 seconds, has it.
minReadySeconds: 30
selector:
  matchLabels:
    {{- include "jobgateway.selector" . | nindent 4 }}
template:
  metadata:
    labels:
      {{- include "jobgateway.selector" . | nindent 6 }}
      {{- with .Values.podLabels }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    annotations:
      # A changed setting replaces the pods.
      checksum/settings: {{ include "jobgateway.settings" . | sha256sum }}
      {{- with .Values.podAnnotations }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  spec:
    {{- include "jobgateway.pod" . | nindent 4 }}
{{- end -}}

{{- define "jobgateway.pod" -}}
serviceAccountName: {{ include "jobgateway.name" . }}
automountServiceAccountToken: false
# Otherwise a Service named jobgateway adds variables that are unknown settings, and the gateway does not start.
enableServiceLinks: false
# preStop (5 s), the grace, the last flushes, a reserve: docs/operations/shutdown.md
terminationGracePeriodSeconds: {{ add (ceil .Values.drainGraceSeconds) 15 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if ne .Values.state.store "sqlite" }}
# Each rollout is spread by itself: without matchLabelKeys, the old pods that leave count too.
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "jobgateway.selector" $ | nindent 8 }}
    matchLabelKeys:
      - pod-template-hash
  {{- end }}
{{- end }}
containers:
  - name: {{ .Chart.Name }}
    image: {{ include "jobgateway.image" . }}
    envFrom:
      - configMapRef:
          name: {{ include "jobgateway.name" . }}
    {{- if or (eq .Values.state.store "redis") .Values.env }}
    env:
      {{- if eq .Values.state.store "redis" }}
      # It contains a password, so it is not in the ConfigMap.
      - name: JOBGATEWAY_STATE_URL
        valueFrom:
          secretKeyRef:
            name: {{ include "jobgateway.stateSecret" . }}
            key: url
      {{- end }}
      {{- with .Values.env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- end }}
    ports:
      - name: grpc
        containerPort: 50051
      - name: metrics
        containerPort: 9464
    # Health covers the process and not the upstream, because an outage there must not restart or hide all replicas.
    # The kubelet's gRPC probes do not support TLS.
    startupProbe:
      {{- include "jobgateway.probe" (dict "values" .Values "path" "/livez" "service" "") | nindent 6 }}
      periodSeconds: 1
      failureThreshold: 30
    livenessProbe:
      {{- include "jobgateway.probe" (dict "values" .Values "path" "/livez" "service" "") | nindent 6 }}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 3
    readinessProbe:
      {{- include "jobgateway.probe" (dict "values" .Values "path" "/readyz" "service" "jobgateway.v1.JobService") | nindent 6 }}
      periodSeconds: 5
      timeoutSeconds: 2
      failureThreshold: 2
    lifecycle:
      preStop:
        # Gives balancers and kube-proxy time to stop sending new calls.
        sleep:
          seconds: 5
    resources:
      {{- toYaml .Values.resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop:
          - ALL
    {{- if or .Values.tls.enabled (ne .Values.state.store "memory") .Values.volumeMounts }}
    volumeMounts:
      {{- if .Values.tls.enabled }}
      # The folder, not a subPath: a file mounted with subPath never changes.
      - name: tls
        mountPath: /etc/jobgateway/tls
        readOnly: true
      {{- end }}
      {{- if eq .Values.state.store "redis" }}
      - name: state
        mountPath: /etc/jobgateway/state
        readOnly: true
      {{- else if eq .Values.state.store "sqlite" }}
      - name: state
        mountPath: /var/lib/jobgateway
      {{- end }}
      {{- with .Values.volumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- end }}
{{- if or .Values.tls.enabled (eq .Values.state.store "redis") .Values.volumes }}
volumes:
  {{- if .Values.tls.enabled }}
  - name: tls
    secret:
      secretName: {{ include "jobgateway.tlsSecret" . }}
      defaultMode: 0440
  {{- end }}
  {{- if eq .Values.state.store "redis" }}
  - name: state
    secret:
      secretName: {{ include "jobgateway.stateSecret" . }}
      defaultMode: 0440
      items:
        - key: key
          path: key
  {{- end }}
  {{- with .Values.volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "jobgateway.probe" -}}
{{- if .values.tls.enabled -}}
httpGet:
  path: {{ .path }}
  port: metrics
{{- else -}}
grpc:
  port: 50051
  {{- with .service }}
  service: {{ . }}
  {{- end }}
{{- end -}}
{{- end -}}
