{{- /* What a schema cannot say: values that are each fine alone. */ -}}
{{- define "recsite.checks" -}}
{{- with .Values -}}
{{- if or (eq .secrets.lane .secrets.control) (eq .secrets.lane .secrets.jobs) (eq .secrets.control .secrets.jobs) -}}
{{- fail "secrets.lane, secrets.control and secrets.jobs must name three Secrets: a lane is given no more than it needs, and a SECRET_KEY of its own" -}}
{{- end -}}
{{- if eq .lane.host .dashboard.host -}}
{{- fail "lane.host and dashboard.host must differ: /v1/ exists at both" -}}
{{- end -}}
{{- if and .ingress.enabled .gateway.enabled -}}
{{- fail "enable ingress or gateway, not both: RECSITE_PROXIES is right for one of them" -}}
{{- end -}}
{{- if and .gateway.enabled (not (or .gateway.certificateMap .gateway.certificateSecret)) -}}
{{- fail "gateway needs certificateMap (Google's Certificate Manager) or certificateSecret: games send tokens" -}}
{{- end -}}
{{- if and .networkPolicy.enabled (not .networkPolicy.egress.redis) -}}
{{- fail "networkPolicy.egress.redis must say where Redis is: without it lanes reach nothing" -}}
{{- end -}}
{{- if and .networkPolicy.enabled (not .networkPolicy.egress.control) -}}
{{- fail "networkPolicy.egress.control must say where the database is: without it the dashboard reaches nothing" -}}
{{- end -}}
{{- if gt (int .lane.autoscaling.min) (int .lane.autoscaling.max) -}}
{{- fail "lane.autoscaling.min must not be above lane.autoscaling.max" -}}
{{- end -}}
{{- end -}}
{{- end -}}
