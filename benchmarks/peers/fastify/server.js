// The endpoint on Fastify: ioredis with auto-pipelining, fast-jwt with its cache of verified tokens.
'use strict'

const { createHash } = require('node:crypto')
const { readFileSync } = require('node:fs')
const { createVerifier } = require('fast-jwt')
const Fastify = require('fastify')
const Redis = require('ioredis')

const config = JSON.parse(readFileSync(process.env.PEERS_FILE))
const allocation = Buffer.from(config.allocation, 'base64')
const redis = new Redis(config.redis_port, config.redis_host, { enableAutoPipelining: true })
const verify = createVerifier({
  key: Buffer.from(config.secret, 'base64'),
  algorithms: ['HS256'],
  allowedAud: config.audience,
  allowedIss: config.issuer,
  requiredClaims: ['exp', 'iat', 'aud', 'iss'],
  cache: true
})

function versionOf (player) {
  const digest = createHash('md5').update(`${config.salt}:${player}`).digest('hex')
  return config.versions[allocation[Number(BigInt(`0x${digest.slice(0, 15)}`) % 10000n)]]
}

const app = Fastify({ logger: false })

app.decorateRequest('claims', null)
app.addHook('onRequest', async (request, reply) => {
  const header = request.headers.authorization
  try {
    if (!header?.startsWith('Bearer ')) throw new Error('no token')
    request.claims = verify(header.slice(7))
  } catch {
    reply.header('WWW-Authenticate', 'Bearer')
    return reply.code(401).send()
  }
})

app.get('/v1/recommendations', {
  schema: {
    querystring: { type: 'object', properties: { player_id: { type: 'string' } } },
    response: {
      200: {
        type: 'object',
        properties: {
          model: { type: 'string' },
          version: { type: 'string' },
          recommendation: {
            type: 'object',
            properties: {
              offer_id: { type: 'integer' },
              discount: { type: 'number' },
              segment: { type: 'string' },
              items: { type: 'array', items: { type: 'integer' } }
            }
          }
        }
      }
    }
  }
}, async (request, reply) => {
  const asked = request.query.player_id
  const player = request.claims.sub ?? asked
  if (player === undefined || (asked !== undefined && asked !== player)) return reply.code(400).send()
  const version = versionOf(player)
  const value = await redis.get(`${config.model}:${version}:${player}`)
  if (value === null) return reply.code(404).send()
  return { model: config.model, version, recommendation: JSON.parse(value) }
})

app.listen({ host: '127.0.0.1', port: Number(process.env.PORT) })
