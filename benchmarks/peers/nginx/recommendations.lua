-- The endpoint in nginx with Lua: nginx.redis for reading; HS256 by libcrypto's HMAC through LuaJIT's FFI, since no
-- JWT library for Lua is in Debian.
local cjson = require "cjson.safe"
local ffi = require "ffi"
local redis = require "nginx.redis"

ffi.cdef [[
const void *EVP_sha256(void);
unsigned char *HMAC(const void *evp_md, const void *key, int key_len, const unsigned char *data, size_t data_len,
                    unsigned char *md, unsigned int *md_len);
int CRYPTO_memcmp(const void *a, const void *b, size_t len);
]]

local file = assert(io.open(os.getenv("PEERS_FILE")))
local config = cjson.decode(file:read("*a"))
file:close()
local secret = ngx.decode_base64(config.secret)
local allocation = ngx.decode_base64(config.allocation)
local sha256 = ffi.C.EVP_sha256()
local digest, digest_length = ffi.new("unsigned char[32]"), ffi.new("unsigned int[1]")

local function base64url_decode(text)
    return ngx.decode_base64((text:gsub("-", "+"):gsub("_", "/")))
end

local function claims_of(header)
    local head, payload, signature = (header or ""):match("^Bearer ([%w_-]+)%.([%w_-]+)%.([%w_-]+)$")
    if not head then return nil end
    local parameters = cjson.decode(base64url_decode(head) or "")
    if not parameters or parameters.alg ~= "HS256" then return nil end
    local signed, given = head .. "." .. payload, base64url_decode(signature)
    if not given or #given ~= 32 then return nil end
    ffi.C.HMAC(sha256, secret, #secret, signed, #signed, digest, digest_length)
    if ffi.C.CRYPTO_memcmp(digest, given, 32) ~= 0 then return nil end
    local claims = cjson.decode(base64url_decode(payload) or "")
    if not claims or claims.aud ~= config.audience or claims.iss ~= config.issuer or type(claims.exp) ~= "number"
        or claims.exp <= ngx.time() then
        return nil
    end
    return claims
end

local function version_of(player)
    local hex = ngx.md5(config.salt .. ":" .. player)
    -- 60 bits are more than a Lua number holds exactly.
    local high, low = tonumber(hex:sub(1, 7), 16), tonumber(hex:sub(8, 15), 16)
    local slot = ((high % 10000) * (4294967296 % 10000) + low) % 10000
    return config.versions[tostring(allocation:byte(slot + 1))]
end

local function answer()
    local claims = claims_of(ngx.var.http_authorization)
    if not claims then
        ngx.header["WWW-Authenticate"] = "Bearer"
        return ngx.exit(401)
    end
    local asked = ngx.var.arg_player_id
    local player = claims.sub or asked
    if not player or (asked and asked ~= player) then return ngx.exit(400) end
    local version = version_of(player)
    local connection = redis:new()
    connection:set_timeout(1000)
    if not connection:connect(config.redis_host, config.redis_port) then return ngx.exit(503) end
    local value, problem = connection:get(config.model .. ":" .. version .. ":" .. player)
    if problem then return ngx.exit(503) end
    connection:set_keepalive(60000, 256)
    if value == ngx.null then return ngx.exit(404) end
    -- The value is JSON already.
    local body = '{"model":"' .. config.model .. '","version":"' .. version .. '","recommendation":' .. value .. "}"
    ngx.header["Content-Length"] = #body
    ngx.print(body)
end

return { answer = answer }
