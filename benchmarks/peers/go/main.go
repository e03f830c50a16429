// The endpoint on Go's net/http, with redigo's pool of connections and golang-jwt.
package main

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt"
	"github.com/gomodule/redigo/redis"
)

type config struct {
	RedisHost  string            `json:"redis_host"`
	RedisPort  int               `json:"redis_port"`
	Model      string            `json:"model"`
	Salt       string            `json:"salt"`
	Allocation []byte            `json:"allocation"`
	Versions   map[string]string `json:"versions"`
	Secret     []byte            `json:"secret"`
	Audience   string            `json:"audience"`
	Issuer     string            `json:"issuer"`
}

type answer struct {
	Model          string          `json:"model"`
	Version        string          `json:"version"`
	Recommendation json.RawMessage `json:"recommendation"`
}

type server struct {
	config   config
	versions map[byte]string
	pool     *redis.Pool
	parser   *jwt.Parser
}

func (s *server) claims(r *http.Request) (*jwt.StandardClaims, error) {
	header := r.Header.Get("Authorization")
	if !strings.HasPrefix(header, "Bearer ") {
		return nil, errors.New("no token")
	}
	claims := &jwt.StandardClaims{}
	_, err := s.parser.ParseWithClaims(header[len("Bearer "):], claims, func(*jwt.Token) (interface{}, error) {
		return s.config.Secret, nil
	})
	if err != nil {
		return nil, err
	}
	if !claims.VerifyAudience(s.config.Audience, true) || !claims.VerifyIssuer(s.config.Issuer, true) ||
		!claims.VerifyExpiresAt(time.Now().Unix(), true) {
		return nil, errors.New("not for this service")
	}
	return claims, nil
}

func (s *server) version(player string) string {
	sum := md5.Sum([]byte(s.config.Salt + ":" + player))
	number, _ := strconv.ParseUint(hex.EncodeToString(sum[:])[:15], 16, 64)
	return s.versions[s.config.Allocation[number%10000]]
}

func (s *server) recommendation(w http.ResponseWriter, r *http.Request) {
	claims, err := s.claims(r)
	if err != nil {
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	asked := r.URL.Query().Get("player_id")
	player := claims.Subject
	if player == "" {
		player = asked
	}
	if player == "" || (asked != "" && asked != player) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	version := s.version(player)
	conn := s.pool.Get()
	defer conn.Close()
	value, err := redis.Bytes(conn.Do("GET", s.config.Model+":"+version+":"+player))
	if err == redis.ErrNil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	body, err := json.Marshal(answer{s.config.Model, version, value})
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(body)
}

func main() {
	content, err := os.ReadFile(os.Getenv("PEERS_FILE"))
	if err != nil {
		log.Fatal(err)
	}
	s := &server{versions: map[byte]string{}, parser: &jwt.Parser{ValidMethods: []string{"HS256"}}}
	if err := json.Unmarshal(content, &s.config); err != nil {
		log.Fatal(err)
	}
	for code, name := range s.config.Versions {
		number, err := strconv.ParseUint(code, 10, 8)
		if err != nil {
			log.Fatal(err)
		}
		s.versions[byte(number)] = name
	}
	address := s.config.RedisHost + ":" + strconv.Itoa(s.config.RedisPort)
	s.pool = &redis.Pool{
		MaxIdle:     256,
		IdleTimeout: 4 * time.Minute,
		Dial:        func() (redis.Conn, error) { return redis.Dial("tcp", address) },
	}
	http.HandleFunc("/v1/recommendations", s.recommendation)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
