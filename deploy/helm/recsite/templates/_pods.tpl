{{- /* Settings that are no secrets, as YAML: the ConfigMap's data, and what the Jobs, which run before it, are given. */ -}}
{{- define "recsite.settings" -}}
RECSITE_ALLOWED_HOSTS: {{ list .Values.dashboard.host | toJson | quote }}
RECSITE_CSRF_TRUSTED_ORIGINS: {{ list (printf "https://%s" .Values.dashboard.host) | toJson | quote }}
RECSITE_SERVING_URL: {{ printf "https://%s" .Values.lane.host | quote }}
RECSITE_PROXIES: {{ .Values.proxies | int | quote }}
RECSITE_VAR_DIR: /var/lib/recsite
{{- with .Values.settings }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Named keys of a Secret, so that a process gets these and no others. */ -}}
{{- define "recsite.secretEnv" -}}
{{- range .needed }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $.secret }}, key: {{ . }}}}
{{- end }}
{{- range .optional }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $.secret }}, key: {{ . }}, optional: true}}
{{- end }}
{{- end -}}

{{- /* What dashboard, worker, loader and beat are given. */ -}}
{{- define "recsite.controlEnv" -}}
{{- include "recsite.secretEnv" (dict "secret" .Values.secrets.control
    "needed" (list "RECSITE_SECRET_KEY" "RECSITE_TOKEN_MASTER_KEYS" "RECSITE_SNAPSHOT_PRIVATE_KEY"
      "RECSITE_SNAPSHOT_PUBLIC_KEYS" "RECSITE_DATABASE_URL" "RECSITE_REDIS_URL")
    "optional" (list "RECSITE_BROKER_URL" "RECSITE_CACHE_URL" "RECSITE_METRICS_TOKEN" "RECSITE_SEAL_KEYS")) }}
{{- end -}}

{{- define "recsite.annotations" -}}
checksum/settings: {{ include "recsite.settings" .root | sha256sum }}
{{- with .root.Values.secrets.revision }}
recsite/secrets-revision: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "recsite.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "recsite.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* What stands in every pod's spec, by the component's own values. */ -}}
{{- define "recsite.podSpec" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "recsite.podSecurity" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .own.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "recsite.spread" -}}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "recsite.selector" $ | nindent 8 }}
  {{- end }}
{{- end -}}

{{- /* The one folder that a process writes to is the pod's own: lanes would take another pod's process ids for their own. */ -}}
{{- define "recsite.volumes" -}}
volumes:
  - name: var
    emptyDir: {sizeLimit: {{ .own.varSize }}}
{{- with .root.Values.certificateAuthority.configMap }}
  - name: ca
    configMap: {name: {{ . }}}
{{- end }}
{{- end -}}

{{- define "recsite.mounts" -}}
volumeMounts:
  - {name: var, mountPath: /var/lib/recsite}
  - {name: var, mountPath: /tmp, subPath: tmp}
{{- if .root.Values.certificateAuthority.configMap }}
  - {name: ca, mountPath: /etc/recsite/ca, readOnly: true}
{{- end }}
{{- end -}}

{{- /* A sidecar of Kubernetes' own kind: it starts before the process, ends after it, and lets a Job end. */ -}}
{{- define "recsite.cloudSqlProxy" -}}
{{- with .Values.cloudSql }}
{{- if .instance }}
initContainers:
  - name: cloud-sql-proxy
    image: {{ .image }}
    restartPolicy: Always
    args: [--private-ip, --port=5432, --structured-logs, --health-check, --http-address=0.0.0.0, --http-port=9801, {{ .instance | quote }}]
    startupProbe:
      httpGet: {path: /startup, port: 9801}
      periodSeconds: 1
      failureThreshold: 60
    securityContext:
      {{- include "recsite.containerSecurity" $ | nindent 6 }}
    resources:
      {{- toYaml .resources | nindent 6 }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* The process's own sign of life, in its own folder: nothing that is away elsewhere restarts it. docs/kubernetes.md. */ -}}
{{- define "recsite.heartbeatProbes" -}}
{{- $command := list "recsite" "healthy" . }}
startupProbe:
  exec: {command: {{ toJson $command }}}
  periodSeconds: 5
  timeoutSeconds: 10
  failureThreshold: 60
livenessProbe:
  exec: {command: {{ toJson $command }}}
  periodSeconds: 30
  timeoutSeconds: 15
  failureThreshold: 3
{{- end -}}
